"""Label images: (H, W) int32, 0 is background, every other id one cell."""

from __future__ import annotations

from typing import Any

import fastremap
import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg.arrays.components import connected_components
from flowseg.arrays.jit import jit
from flowseg.errors import FlowsegError

Labels = NDArray[np.int32]


def check_labels(labels: ArrayLike) -> Labels:
    """`labels`, (H, W) of any integer type, as contiguous int32; ids may have gaps.

    Raises FlowsegError where it is not 2-D, not integer, has negative ids, or ids beyond int32.

    Examples
    --------
    >>> check_labels(np.array([[0, 7]], dtype=np.uint8))
    array([[0, 7]], dtype=int32)
    """
    image = np.asarray(labels)
    if image.ndim != 2 or not np.issubdtype(image.dtype, np.integer):
        raise FlowsegError(
            f"a label image is a 2-D array of integers, not {image.ndim}-D {image.dtype}"
        )
    if image.size and image.dtype != np.int32:
        top = int(image.max())
        if top > np.iinfo(np.int32).max:
            raise FlowsegError(
                f"the label image holds the id {top}, beyond int32", remedy="renumber its ids"
            )
    if image.size and (low := int(image.min())) < 0:
        raise FlowsegError(f"a label image has no negative ids, this one has {low}")
    return np.ascontiguousarray(image, dtype=np.int32)


def as_labels(image: NDArray[Any]) -> Labels:
    """Labels that are stored as another type or as grey colours, where nothing is lost.

    Whole numbers of a float type, one bit a pixel, one channel, and three equal ones (also with an
    alpha that is the same everywhere) are taken; what else `check_labels` refuses is refused.

    Examples
    --------
    >>> as_labels(np.full((1, 2, 3), 7.0))
    array([[7, 7]], dtype=int32)
    """
    if image.ndim == 3 and 1 <= image.shape[2] <= 4:
        grey, rest = image[..., :1], image[..., 1 : image.shape[2] - (image.shape[2] in (2, 4))]
        alpha = image[..., -1] if image.shape[2] in (2, 4) else image[:1, :1, 0]
        if not (grey == rest).all() or (alpha != alpha.flat[:1]).any():
            raise FlowsegError(
                f"is a colour image of {image.shape[2]} channels, not a label image",
                remedy="save the labels as grey values, one integer per cell; 3 or 4 pages of a "
                "stack that tifffile wrote as colours with photometric='minisblack'",
            )
        image = image[..., 0]
    if image.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            fractions = image[~(np.rint(image) == image)]
        if fractions.size or np.isinf(image).any():
            raise FlowsegError(
                f"is no label image: it holds {fractions[0] if fractions.size else np.inf:g}",
                remedy="save whole numbers, one per cell",
            )
        top = float(np.abs(image).max(initial=0))
        image = image.astype(np.int64) if top < 2**62 else image
    return check_labels(image.astype(np.uint8) if image.dtype == bool else image)


def renumber(labels: ArrayLike) -> Labels:
    """The same cells with ids 1..N without gaps, order of the ids kept: (H, W) int32.

    Examples
    --------
    >>> renumber([[0, 7, 7], [70000, 0, 3]])
    array([[0, 2, 2],
           [3, 0, 1]], dtype=int32)
    """
    image = check_labels(labels)
    ids, ranks = fastremap.unique(image, return_inverse=True)
    if ids.size and ids[0] != 0:  # no background
        ranks = ranks + 1
    return np.asarray(ranks, dtype=np.int32)


def equivalent_diameter(areas: ArrayLike) -> NDArray[np.float64]:
    """Diameters of the discs as large as these areas, in pixels.

    Examples
    --------
    >>> equivalent_diameter([0, 314]).round(1).tolist()
    [0.0, 20.0]
    """
    diameters: NDArray[np.float64] = 2 * np.sqrt(np.asarray(areas) / np.pi)
    return diameters


def outlines(labels: ArrayLike) -> NDArray[np.bool_]:
    """Where a cell's outermost pixels are: (H, W) bool.

    A pixel is on the outline when one of its four neighbours is another cell, background, or
    beyond the image.

    Examples
    --------
    >>> outlines(np.pad(np.ones((3, 3), int), 1)).astype(int)
    array([[0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 1, 0, 1, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0]])
    """
    image = check_labels(labels)
    framed = np.pad(image, 1)
    core = framed[1:-1, 1:-1]
    differs = (core != framed[:-2, 1:-1]) | (core != framed[2:, 1:-1])
    differs |= (core != framed[1:-1, :-2]) | (core != framed[1:-1, 2:])
    edge: NDArray[np.bool_] = differs & (core != 0)
    return edge


def fill_holes(labels: ArrayLike) -> Labels:
    """With every hole filled: background that touches one cell only and not the image's edge.

    A hole that holds another cell stays open. Background joins over edges, not over corners.

    Examples
    --------
    >>> fill_holes([[4, 4, 4, 0], [4, 0, 4, 0], [4, 4, 4, 0]])
    array([[4, 4, 4, 0],
           [4, 4, 4, 0],
           [4, 4, 4, 0]], dtype=int32)
    """
    image = check_labels(labels)
    filled: Labels = _fill(image, connected_components(image == 0, False))
    return filled


def keep_largest_component(labels: ArrayLike) -> Labels:
    """The largest connected component of each cell (8 neighbours).

    Of components equally large the one first in reading order stays.

    Examples
    --------
    >>> keep_largest_component([[2, 0, 2, 2], [0, 0, 0, 0], [3, 0, 0, 2]])
    array([[0, 0, 2, 2],
           [0, 0, 0, 0],
           [3, 0, 0, 0]], dtype=int32)
    """
    image = check_labels(labels)
    components = connected_components(image, True)
    numbers, firsts, sizes = fastremap.unique(components, return_index=True, return_counts=True)
    owners = image.reshape(-1)[firsts]
    order = np.lexsort((numbers, -sizes.astype(np.int64), owners))
    largest = numbers[order[np.unique(owners[order], return_index=True)[1]]]
    kept: Labels = np.where(fastremap.mask_except(components, largest.tolist()), image, 0)
    return kept


def clear_border(
    labels: ArrayLike, edges: tuple[bool, bool, bool, bool] = (True, True, True, True)
) -> Labels:
    """Without the cells that have a pixel on the image's edge, which cuts them; ids stay.

    `edges` says of the top, bottom, left and right edge whether it counts: those of a part of an
    image count where they are the image's own.

    Examples
    --------
    >>> clear_border([[1, 0, 0, 0], [1, 5, 5, 0], [0, 0, 0, 0]])
    array([[0, 0, 0, 0],
           [0, 5, 5, 0],
           [0, 0, 0, 0]], dtype=int32)
    """
    image = check_labels(labels)
    sides = (image[:1], image[-1:], image[:, :1], image[:, -1:])
    cut = [fastremap.unique(side) for side, counts in zip(sides, edges, strict=True) if counts]
    cleared: Labels = fastremap.mask(image, np.concatenate(cut).tolist()) if cut else image
    return cleared


@jit
def _fill(image: Any, gaps: Any) -> Any:
    height, width = image.shape
    # the one cell a gap touches: 0 none seen yet, -1 several, or the image's edge
    owner = np.zeros(gaps.max() + 1 if gaps.size else 1, np.int32)
    for y in range(height):
        for x in range(width):
            gap = gaps[y, x]
            if gap == 0:
                continue
            for dy, dx in ((0, -1), (-1, 0), (0, 1), (1, 0)):
                v, u = y + dy, x + dx
                if v < 0 or u < 0 or v >= height or u >= width:
                    owner[gap] = -1
                elif image[v, u] != 0 and owner[gap] != image[v, u]:
                    owner[gap] = image[v, u] if owner[gap] == 0 else -1
    filled = image.copy()
    for y in range(height):
        for x in range(width):
            if gaps[y, x] != 0 and owner[gaps[y, x]] > 0:
                filled[y, x] = owner[gaps[y, x]]
    return filled
