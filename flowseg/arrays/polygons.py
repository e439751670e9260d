"""Polygons to masks, close to how COCO rasterises them: a pixel is inside if its centre is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# pycocotools rounds a corner to a fifth of a pixel and cuts a row a little below its middle. Doing
# as it does raises the mean IoU with its masks on LIVECell from 0.990 to 0.996.
_GRID = 5
_ROW = 0.55
_MAX_COORDINATE = 2.0**24  # pixels; beyond it is an error
# Intersections of all edges with all rows, about 80 bytes each; LIVECell's fullest image: 2**18.
_MAX_INTERSECTIONS = 2**24


def polygons_to_masks(
    polygons: Sequence[npt.ArrayLike], owners: npt.ArrayLike, count: int, shape: tuple[int, int]
) -> Masks:
    """The masks of `count` cells, each the union of its polygons.

    A polygon is ``x0, y0, x1, y1, ...`` in pixels, where the first pixel spans 0 to 1, and belongs
    to the cell of its number in `owners`. What lies outside the image is cut off, and a polygon
    that holds no pixel's centre adds nothing, so a mask may be empty.

    Raises
    ------
    FlowsegError
        If a polygon has an odd count of numbers, fewer than three corners, or a coordinate that
        is no finite number or is more than 16 million pixels away; or if the edges cross rows
        more than 16 million times in all.

    Notes
    -----
    All polygons at once: each edge is intersected with the centre lines of the rows it spans, and
    between the first and the second intersection of a row, the third and the fourth, and so on, is
    the inside (even-odd rule).

    Examples
    --------
    >>> polygons_to_masks([[0, 0, 3, 0, 3, 2, 0, 2]], [0], 1, (3, 4)).dense(0).astype(int)
    array([[1, 1, 1, 0],
           [1, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    height, width = shape
    corners = [_corners(polygon) for polygon in polygons]
    if not corners:
        return Masks.from_strings([""] * count, shape)
    x, y, next_x, next_y = _edges(corners)
    polygon = np.repeat(np.arange(len(corners)), [len(c) for c in corners])

    # rows whose centre line an edge crosses: first <= row < last
    first = np.clip(np.ceil(np.minimum(y, next_y) - _ROW), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y, next_y) - _ROW), 0, height).astype(np.int64)
    counts = last - first
    if counts.sum() > _MAX_INTERSECTIONS:
        raise FlowsegError("the polygons of one image have too many or too long edges")
    edge = np.repeat(np.arange(len(y)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first, counts)

    slope = (next_x - x)[edge] / (next_y - y)[edge]
    cut = x[edge] + (row + _ROW - y[edge]) * slope
    column = np.clip(np.ceil(cut - 0.5), 0, width).astype(np.int64)

    order = np.lexsort((column, row, polygon[edge]))
    pixel = (row * width + column)[order]
    owner = np.asarray(owners, np.int64)[polygon[edge][order[0::2]]]
    return _union(owner, pixel[0::2], pixel[1::2], count, shape)


def _corners(polygon: npt.ArrayLike) -> Floats:
    try:
        flat = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise FlowsegError("a polygon holds something that is not a number") from error
    if flat.ndim != 1 or flat.size % 2 or flat.size < 6:
        raise FlowsegError("a polygon is not a list of at least three pairs x, y")
    if not (np.abs(flat) < _MAX_COORDINATE).all():
        raise FlowsegError("a polygon has a corner that is not finite or far outside the image")
    return np.floor(flat * _GRID + 0.5).reshape(-1, 2) / _GRID


def _edges(corners: list[Floats]) -> tuple[Floats, Floats, Floats, Floats]:
    start = np.concatenate(corners)
    end = np.concatenate([np.roll(c, -1, axis=0) for c in corners])
    return start[:, 0], start[:, 1], end[:, 0], end[:, 1]


def _union(owner: Ints, start: Ints, end: Ints, count: int, shape: tuple[int, int]) -> Masks:
    """Masks of the pixels that any of an owner's spans start <= pixel < end holds."""
    size = shape[0] * shape[1] + 1  # one more, so that spans of two owners never touch
    filled = end > start
    owner = owner[filled]
    start, end = start[filled] + owner * size, end[filled] + owner * size
    order = np.argsort(start, kind="stable")
    start, end = start[order], np.maximum.accumulate(end[order])
    first = np.ones(len(start), np.bool_)
    first[1:] = start[1:] > end[:-1]
    last = np.roll(first, -1)  # a run ends where the next begins; the last one ends as well
    start, end = start[first], end[last]
    offsets = np.searchsorted(start, np.arange(count + 1) * size)
    return Masks(shape, start % size, end - start, offsets.astype(np.int64))
