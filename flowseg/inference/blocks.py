"""Overlapping blocks of an image larger than memory, and their labels put together.

An instance is taken from the block whose core holds its first pixel in reading order; the block's
halo is so wide that the instance is complete there. The labels are those of the whole image
wherever no cell, with the neighbours that decide its shape, is larger than the halo.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.rle import Masks
from flowseg.flow.runs import find_runs

Ints = NDArray[np.int32]
Shape = tuple[int, int]


class BlockSizes(NamedTuple):
    """Size of a block's core in pixels, and width of its halo in mean cell diameters."""

    height: int = 1024
    width: int = 2048
    halo: float = 12.0


class Block(NamedTuple):
    """Rows and columns of a block's core, and of its window: the core and its halo."""

    core: tuple[slice, slice]
    window: tuple[slice, slice]


def cut_blocks(shape: Shape, sizes: BlockSizes, halo: int) -> list[list[Block]]:
    """The blocks of an image, row by row, with halos of so many pixels."""
    rows, columns = (
        [
            (
                slice(start, min(length, start + edge)),
                slice(max(0, start - halo), min(length, start + edge + halo)),
            )
            for start in range(0, length, edge)
        ]
        for length, edge in zip(shape, (sizes.height, sizes.width), strict=True)
    )
    return [[Block(*zip(row, column, strict=True)) for column in columns] for row in rows]


def assemble(
    rows: Sequence[Sequence[Block]], labels: Iterator[Ints]
) -> Generator[Ints, None, None]:
    """Put the labels of the windows of all blocks, which come in this order, together.

    Yields the label image (H, W) from the top, some rows at a time; ids 1, 2 ... in reading order.
    """
    relabel = _ReadingOrder()
    width = rows[0][-1].core[1].stop
    overhang = np.zeros((0, width), np.int32)  # of instances into the next row of blocks
    count = 0
    for row in rows:
        core, window = row[0].core[0], row[0].window[0]
        strip = np.zeros((window.stop - core.start, width), np.int32)
        strip[: len(overhang)] = overhang
        for block in row:
            count = _paint(block, next(labels), strip, count)
        height = core.stop - core.start
        yield relabel(strip[:height])
        overhang = strip[height:]


class RowMasks:
    """The masks of a label image that comes some rows at a time.

    Examples
    --------
    >>> collected = RowMasks(2)
    >>> for rows in ([[1, 1]], [[1, 2]]):
    ...     collected.add(np.array(rows, np.int32))
    >>> collected.masks().to_strings()
    ['1 3', '4 1']
    """

    def __init__(self, width: int) -> None:
        self.shape = (0, width)
        self.parts: list[tuple[Ints, NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, rows: Ints) -> None:
        """Collect the runs of the next rows, (h, W)."""
        height, width = self.shape
        runs = find_runs(np.ascontiguousarray(rows))
        starts = (runs.rows.astype(np.int64) + height) * width + runs.starts
        self.parts.append((runs.ids, starts, (runs.stops - runs.starts).astype(np.int64)))
        self.shape = (height + len(rows), width)

    def masks(self) -> Masks:
        """The masks of the rows so far, ids ascending."""
        ids, starts, lengths = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        order = np.argsort(ids, kind="stable")
        ids, starts, lengths = ids[order], starts[order], lengths[order]
        # A run to the end of a row and one from the start of the next are one in a mask.
        stops = starts + lengths
        new = np.ones(len(ids), np.bool_)
        new[1:] = (ids[1:] != ids[:-1]) | (starts[1:] != stops[:-1])
        first = np.flatnonzero(new)
        lengths = (
            stops[np.append(first[1:], len(ids)) - 1] - starts[first] if first.size else lengths
        )
        offsets = np.flatnonzero(np.diff(ids[first], prepend=0))
        return Masks(self.shape, starts[first], lengths, np.append(offsets, len(first)))


class _ReadingOrder:
    """Renumbers instances by their first pixel in reading order, as rows come."""

    def __init__(self) -> None:
        self.count = 0
        self.new_ids = np.zeros(1, np.int32)  # 0: not seen yet

    def __call__(self, rows: Ints) -> Ints:
        rows = np.ascontiguousarray(rows)
        ids, first = np.unique(find_runs(rows).ids, return_index=True)
        if ids.size:
            missing = max(0, int(ids[-1]) + 1 - self.new_ids.size)
            self.new_ids = np.concatenate((self.new_ids, np.zeros(missing, np.int32)))
        unseen = self.new_ids[ids] == 0
        unseen_ids = ids[unseen][np.argsort(first[unseen])]
        self.new_ids[unseen_ids] = np.arange(self.count + 1, self.count + 1 + unseen_ids.size)
        self.count += unseen_ids.size
        return self.new_ids[rows]


def _paint(block: Block, labels: Ints, strip: Ints, count: int) -> int:
    """Add the instances that begin in the block's core to the strip; return how many it has now."""
    runs = find_runs(labels)
    rows, columns = block.window
    # Runs come in reading order, so an instance's first run holds its first pixel.
    ids, first = np.unique(runs.ids, return_index=True)
    y, x = runs.rows[first] + rows.start, runs.starts[first] + columns.start
    inside = (y >= block.core[0].start) & (y < block.core[0].stop)
    inside &= (x >= block.core[1].start) & (x < block.core[1].stop)
    new_ids = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    new_ids[ids[inside]] = np.arange(count + 1, count + 1 + inside.sum())
    # No instance that begins in the core has a pixel above it.
    top = block.core[0].start
    target = strip[: rows.stop - top, columns]
    painted = new_ids[labels[top - rows.start :]]
    np.copyto(target, painted, where=(painted > 0) & (target == 0))
    return count + int(inside.sum())
