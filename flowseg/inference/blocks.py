"""Overlapping blocks of an image larger than memory, and their labels put together.

A cell is taken from the block in which its first pixel in reading order lies; the block reaches so
far beyond that the cell is whole there. The labels are those of the whole image wherever no cell,
with the neighbours that decide its shape, is larger than the reach.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.rle import Masks
from flowseg.flow.runs import find_runs

__all__ = ["Block", "BlockSizes", "RowMasks", "assemble", "cut_blocks"]

Ints = NDArray[np.int32]
Shape = tuple[int, int]


class BlockSizes(NamedTuple):
    """How an image is cut.

    Attributes
    ----------
    height, width : int
        Of a block, in pixels, without what it overlaps.
    reach : float
        How far a block overlaps its neighbours, in mean cell diameters.
    """

    height: int = 1024
    width: int = 2048
    reach: float = 12.0


class Block(NamedTuple):
    """What a block owns and what it sees: rows and columns of the image."""

    own: tuple[slice, slice]
    seen: tuple[slice, slice]


def cut_blocks(shape: Shape, sizes: BlockSizes, reach: int) -> list[list[Block]]:
    """The blocks of an image, row by row; each sees `reach` pixels more than it owns."""
    rows, columns = (
        [
            (
                slice(start, min(length, start + edge)),
                slice(max(0, start - reach), min(length, start + edge + reach)),
            )
            for start in range(0, length, edge)
        ]
        for length, edge in zip(shape, (sizes.height, sizes.width), strict=True)
    )
    return [[Block(*zip(row, column, strict=True)) for column in columns] for row in rows]


def assemble(
    rows: Sequence[Sequence[Block]], labels: Iterator[Ints]
) -> Generator[Ints, None, None]:
    """Put the labels of blocks together.

    Parameters
    ----------
    rows : sequence of sequence of Block
        From :func:`cut_blocks`.
    labels : iterator of ndarray, int32
        Of all blocks in this order, each of what its block sees.

    Yields
    ------
    ndarray, shape (h, W), int32
        The label image from the top, in strips; ids 1, 2 ... in reading order.
    """
    names = _Names()
    width = rows[0][-1].own[1].stop
    below = np.zeros((0, width), np.int32)
    count = 0
    for row in rows:
        own, seen = row[0].own[0], row[0].seen[0]
        strip = np.zeros((seen.stop - own.start, width), np.int32)
        strip[: len(below)] = below
        for block in row:
            count = _paint(block, next(labels), strip, count)
        height = own.stop - own.start
        yield names.in_order(strip[:height])
        below = strip[height:]


class RowMasks:
    """The masks of a label image that comes strip by strip.

    Examples
    --------
    >>> strips = RowMasks(2)
    >>> for row in ([[1, 1]], [[1, 2]]):
    ...     _ = strips.add(np.array(row, np.int32))
    >>> strips.masks().to_strings()
    ['1 3', '4 1']
    """

    def __init__(self, width: int) -> None:
        self.shape = (0, width)
        self.parts: list[tuple[Ints, NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, strip: Ints) -> Ints:
        """Note the cells of the next strip, and return the strip."""
        height, width = self.shape
        runs = find_runs(np.ascontiguousarray(strip))
        starts = (runs.rows.astype(np.int64) + height) * width + runs.starts
        self.parts.append((runs.ids, starts, (runs.stops - runs.starts).astype(np.int64)))
        self.shape = (height + len(strip), width)
        return strip

    def masks(self) -> Masks:
        """The masks of the strips so far, ids ascending."""
        ids, starts, lengths = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        order = np.argsort(ids, kind="stable")
        ids, starts, lengths = ids[order], starts[order], lengths[order]
        # What goes on in the first column of the next row is one run.
        stops = starts + lengths
        new = np.ones(len(ids), np.bool_)
        new[1:] = (ids[1:] != ids[:-1]) | (starts[1:] != stops[:-1])
        first = np.flatnonzero(new)
        lengths = (
            stops[np.append(first[1:], len(ids)) - 1] - starts[first] if first.size else lengths
        )
        begins = np.flatnonzero(np.diff(ids[first], prepend=0))
        return Masks(self.shape, starts[first], lengths, np.append(begins, len(first)))


class _Names:
    """Ids in reading order, given as strips come."""

    def __init__(self) -> None:
        self.count = 0
        self.names = np.zeros(1, np.int32)

    def in_order(self, strip: Ints) -> Ints:
        strip = np.ascontiguousarray(strip)
        ids, first = np.unique(find_runs(strip).ids, return_index=True)
        if ids.size:
            missing = max(0, int(ids[-1]) + 1 - self.names.size)
            self.names = np.concatenate((self.names, np.zeros(missing, np.int32)))
        fresh = ids[self.names[ids] == 0]
        fresh = fresh[np.argsort(first[self.names[ids] == 0])]
        self.names[fresh] = np.arange(self.count + 1, self.count + 1 + fresh.size)
        self.count += fresh.size
        return self.names[strip]


def _paint(block: Block, labels: Ints, strip: Ints, count: int) -> int:
    """Add the cells that begin in the block to the strip, and return how many there are by now."""
    runs = find_runs(labels)
    rows, columns = block.seen
    # Runs come in reading order, so a cell's first run holds its first pixel.
    ids, first = np.unique(runs.ids, return_index=True)
    y, x = runs.rows[first] + rows.start, runs.starts[first] + columns.start
    inside = (y >= block.own[0].start) & (y < block.own[0].stop)
    inside &= (x >= block.own[1].start) & (x < block.own[1].stop)
    names = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    names[ids[inside]] = np.arange(count + 1, count + 1 + inside.sum())
    # No cell that begins in the block has a pixel above it.
    top = block.own[0].start
    begin = top - rows.start
    target = strip[: rows.stop - top, columns]
    painted = names[labels[begin:]]
    np.copyto(target, painted, where=(painted > 0) & (target == 0))
    return count + int(inside.sum())
