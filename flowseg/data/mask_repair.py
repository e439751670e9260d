"""Defects of annotations, and their repair.

Many astro masks of the competition were filled wrongly when they were drawn: parts of the cell are
only an outline one pixel wide around a hole, or end in a long straight horizontal edge where the
filling stopped. Masks also have several connected components, come twice, or have a few pixels
only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import connected_components
from flowseg.arrays.labels import fill_holes, keep_largest_component
from flowseg.arrays.rle import Masks
from flowseg.config.schema import MaskRepair

SMALL = 10
"""Pixels; a mask with fewer is not taken for a cell."""

STRAIGHT = 40
"""Pixels; a horizontal edge this long, inside the image, is a trace of wrong filling."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Defects:
    """Defects of each of N masks."""

    small: NDArray[np.bool_]
    """(N,): Fewer than `SMALL` pixels."""
    holes: NDArray[np.int64]
    """(N,): Pixels that the mask encloses and does not hold."""
    components: NDArray[np.int64]
    """(N,): Connected components, over edges and corners; 0 for an empty mask."""
    straight: NDArray[np.int64]
    """(N,): Longest straight horizontal edge, in pixels; those on the image's border left out."""
    duplicate_of: NDArray[np.int64]
    """(N,): The earlier mask that is the same in every pixel, -1 where there is none."""

    def any(self) -> NDArray[np.bool_]:
        """Which masks have a defect: (N,) bool."""
        defective: NDArray[np.bool_] = (
            self.small
            | (self.holes > 0)
            | (self.components > 1)
            | (self.straight >= STRAIGHT)
            | (self.duplicate_of >= 0)
        )
        return defective


def find_defects(masks: Masks) -> Defects:
    """Find the defects of every mask.

    Examples
    --------
    A ring of eight pixels around a hole, and the same once more:

    >>> ring = "1 3 5 1 7 1 9 3"
    >>> defects = find_defects(Masks.from_strings([ring, ring], (4, 4)))
    >>> defects.holes.tolist(), defects.duplicate_of.tolist(), defects.small.tolist()
    ([1, 1], [-1, 0], [True, True])
    """
    count = len(masks)
    holes, components, straight = np.zeros((3, count), dtype=np.int64)
    duplicate_of = np.full(count, -1, dtype=np.int64)
    seen: dict[bytes, int] = {}
    for index in range(count):
        duplicate_of[index] = _duplicate_of(masks, index, seen)
        crop, top = _crop(masks, index)
        if not crop.size:
            continue
        holes[index] = int(fill_holes(crop).sum() - crop.sum())
        components[index] = int(connected_components(crop, True).max())
        straight[index] = _longest_edge(crop, top, masks.shape[0])
    return Defects(
        small=masks.areas() < SMALL,
        holes=holes,
        components=components,
        straight=straight,
        duplicate_of=duplicate_of,
    )


def repair(masks: Masks, how: MaskRepair = "fix") -> Masks:
    """The masks without their defects.

    `none` leaves them as they are. `fix` fills holes, keeps the largest component, and drops
    duplicates and masks of fewer than `SMALL` pixels; a straight edge stays. `drop` drops every
    mask with a defect.

    Examples
    --------
    >>> ring = "1 4 5 1 8 1 9 4"
    >>> repair(Masks.from_strings([ring, ring, "16 1"], (4, 4))).to_strings()
    ['1 12']
    """
    if how == "none":
        return masks
    defects = find_defects(masks)
    if how == "drop":
        return masks.select(~defects.any())
    remaining = np.flatnonzero((defects.duplicate_of < 0) & ~defects.small)
    to_fix = set(np.flatnonzero((defects.holes > 0) | (defects.components > 1)).tolist())
    parts = [
        _fix(masks, index) if index in to_fix else masks.select([index])
        for index in remaining.tolist()
    ]
    return Masks.concatenate(parts, masks.shape)


def _duplicate_of(masks: Masks, index: int, seen: dict[bytes, int]) -> int:
    """The earlier mask with the same runs, or -1."""
    runs = slice(masks.offsets[index], masks.offsets[index + 1])
    key = masks.starts[runs].tobytes() + masks.lengths[runs].tobytes()
    first = seen.setdefault(key, index)
    return first if first != index else -1


def _crop(masks: Masks, index: int) -> tuple[NDArray[np.int32], int]:
    """The mask within its bounding box and a margin of one pixel, and the box's first row."""
    runs = slice(masks.offsets[index], masks.offsets[index + 1])
    starts, lengths = masks.starts[runs], masks.lengths[runs]
    if not len(starts):
        return np.zeros((0, 0), dtype=np.int32), 0
    width = masks.shape[1]
    top, bottom = int(starts[0] // width), int((starts[-1] + lengths[-1] - 1) // width)
    offsets = np.array([0, len(starts)])
    rows = Masks((bottom - top + 1, width), starts - top * width, lengths, offsets).paint()
    columns = np.flatnonzero(rows.any(axis=0))
    return np.pad(rows[:, columns[0] : columns[-1] + 1], 1), top


def _longest_edge(crop: NDArray[np.int32], top: int, height: int) -> int:
    """The longest run of pixels in one row whose upper, or whose lower, neighbours are outside."""
    inside = crop[1:-1, 1:-1] > 0
    above, below = inside & (crop[:-2, 1:-1] == 0), inside & (crop[2:, 1:-1] == 0)
    if top == 0:
        above[0] = False
    if top + len(inside) == height:
        below[-1] = False
    edges = np.pad(np.concatenate([above, below]), ((0, 0), (1, 1)))
    ends = np.flatnonzero(np.diff(edges.astype(np.int8).reshape(-1)))
    return int((ends[1::2] - ends[0::2]).max(initial=0))


def _fix(masks: Masks, index: int) -> Masks:
    return Masks.from_labels(
        keep_largest_component(fill_holes(masks.dense(index).astype(np.int32)))
    )
