"""An image larger than memory: read, computed and followed in blocks, its labels yielded in strips.

The flow field does not depend on the blocks: it comes from the same tiles as that of a whole
image. The flows are followed in overlapping blocks. A cell is taken from the block in which its
first pixel in reading order lies; the block reaches so far beyond that the cell is whole there. The
labels are those of the whole image wherever no cell, with the neighbours that decide its shape, is
larger than the reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg._jit import threads
from flowseg.config import CellType
from flowseg.errors import FlowsegError
from flowseg.flow.runs import find_runs
from flowseg.image import Span, intensity_span, normalize, to_grey
from flowseg.inference.field import FlowField, fetch, follow
from flowseg.inference.scale import footprint, rescale_part
from flowseg.inference.segmenter import Request, Segmenter
from flowseg.inference.stream import Stage, pipeline
from flowseg.inference.tiles import cut, predict_tiles
from flowseg.pages import ReadRegion
from flowseg.rle import Masks

__all__ = ["BlockSizes", "StripMasks", "segment_blocks"]

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Shape = tuple[int, int]

_SAMPLE = 2**24
"""Pixels that the intensities of an image are judged by; of a larger one every k-th."""

_STRIP = 512
"""Rows read at once for that."""

_GLANCE = 1024
"""Edge of the middle that tells the cell type and the size."""


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


def segment_blocks(
    segmenter: Segmenter,
    read: ReadRegion,
    shape: Shape,
    request: Request,
    sizes: BlockSizes = BlockSizes(),  # noqa: B008
) -> Iterator[Ints]:
    """Find the instances of an image of any size.

    Parameters
    ----------
    segmenter : Segmenter
    read : callable
        From rows and columns (slices) to the image's pixels there; called from one thread.
    shape : (int, int)
        Height and width of the image.
    request : Request
        As for :meth:`Segmenter.segment`; without a map of disagreement.
    sizes : BlockSizes

    Yields
    ------
    ndarray, shape (h, W), int32
        The label image from the top, in strips; ids 1, 2 ... in reading order.
    """
    if request.disagreement:
        raise FlowsegError(
            f"an image of {shape[1]} x {shape[0]} pixels is computed in blocks, of which no map "
            "of disagreement is made",
            remedy="leave the option out, or cut the image into smaller ones",
        )
    span = _span(read, shape)
    needs = _needs(segmenter, read, shape, span, request)
    band = _Band(segmenter, read, shape, span, needs)
    reach = max(128, math.ceil(sizes.reach * (needs.diameter or 0.0)))
    rows = [
        (top, [_Block(shape, top, left, sizes, reach) for left in range(0, shape[1], sizes.width)])
        for top in range(0, shape[0], sizes.height)
    ]
    blocks = [block for _, row in rows for block in row]
    followed = pipeline(
        blocks,
        [
            Stage(band.field, 1),
            Stage(lambda field: follow(field, needs, segmenter.device), threads()),
        ],
        weight=lambda _: 1,
        limit=len(blocks),
        ahead=threads() + 2,
    )
    names = _Names()
    below = np.zeros((0, shape[1]), np.int32)
    count = 0
    for top, row in rows:
        strip = np.zeros((min(sizes.height + reach, shape[0] - top), shape[1]), np.int32)
        strip[: len(below)] = below
        for block in row:
            outcome = next(followed)
            if outcome.error is not None:
                raise outcome.error
            assert outcome.result is not None  # an outcome holds one or the other
            count = _paint(block, outcome.result, strip, top, count)
        yield names.in_order(strip[: sizes.height])
        below = strip[sizes.height :]


class StripMasks:
    """The masks of a label image that comes strip by strip.

    Examples
    --------
    >>> strips = StripMasks(2)
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


class _Block:
    """What a block owns and what it sees, in pixels of the image."""

    def __init__(self, shape: Shape, top: int, left: int, sizes: BlockSizes, reach: int) -> None:
        self.own = (
            slice(top, min(shape[0], top + sizes.height)),
            slice(left, min(shape[1], left + sizes.width)),
        )
        self.seen = tuple(
            slice(max(0, span.start - reach), min(length, span.stop + reach))
            for span, length in zip(self.own, shape, strict=True)
        )


class _Band:
    """The flow field at the image's own size, as a band of rows that moves down."""

    def __init__(
        self, segmenter: Segmenter, read: ReadRegion, shape: Shape, span: Span, needs: CellType
    ) -> None:
        self.segmenter = segmenter
        self.read = read
        self.shape = shape
        self.span = span
        self.scaled = segmenter.scaled_shape(shape, needs)
        tiles = cut(self.scaled, segmenter.committee)
        self.rows = [
            [tile for tile in tiles if tile.write[0].start == start]
            for start in sorted({tile.write[0].start for tile in tiles})
        ]
        self.top = 0  # of the band, in the image
        self.maps = np.zeros((3, 0, shape[1]), np.float32)
        self.scaled_top = 0  # of what the band's next rows are made of, at the networks' scale
        self.scaled_maps = np.zeros((3, 0, self.scaled[1]), np.float32)

    def field(self, block: _Block) -> FlowField:
        """The field that a block sees; blocks must come row by row, from the top."""
        rows, columns = block.seen
        self.maps, self.top = self.maps[:, rows.start - self.top :], rows.start
        while self.top + self.maps.shape[1] < rows.stop:
            self._grow()
        part = self.maps[:, rows.start - self.top : rows.stop - self.top, columns]
        return FlowField(part[:2].copy(), part[2].copy(), np.zeros(0, np.float32))

    def _grow(self) -> None:
        """Compute the next row of tiles, and the rows of the image that it completes."""
        row = self.rows.pop(0)
        left, height = self.scaled_maps.shape[1], row[0].write[0].stop - row[0].write[0].start
        self.scaled_maps = _longer(self.scaled_maps, height)
        for tile, answer in predict_tiles(self.segmenter.committee, self._pixels, row):
            kept = answer.maps[(0, slice(None), *tile.keep)]
            self.scaled_maps[:, left:, tile.write[1]] = fetch(kept)
        have = self.maps.shape[1]
        start, stop = self.top + have, self._complete(row[0].write[0].stop)
        if stop <= start:
            return
        self.maps = _longer(self.maps, stop - start)
        region = (slice(start, stop), slice(0, self.shape[1]))
        for maps, scaled in zip(self.maps, self.scaled_maps, strict=True):
            maps[have:] = rescale_part(
                scaled, (self.scaled_top, 0), self.scaled, self.shape, region
            )
        if stop < self.shape[0]:
            first = footprint(self.scaled[0], self.shape[0], slice(stop, stop + 1)).start
            self.scaled_maps = self.scaled_maps[:, first - self.scaled_top :].copy()
            self.scaled_top = first

    def _complete(self, bottom: int) -> int:
        """Rows of the image that are made of the first `bottom` rows at the networks' scale."""
        if bottom == self.scaled[0]:
            return self.shape[0]
        stop = min(self.shape[0], bottom * self.shape[0] // self.scaled[0] + 2)
        while footprint(self.scaled[0], self.shape[0], slice(stop - 1, stop)).stop > bottom:
            stop -= 1
        return stop

    def _pixels(self, rows: slice, columns: slice) -> Floats:
        """A part of the rescaled image."""
        need = tuple(
            footprint(*axis) for axis in zip(self.shape, self.scaled, (rows, columns), strict=True)
        )
        grey = normalize(to_grey(self.read(*need)), self.span)
        origin = (need[0].start, need[1].start)
        return rescale_part(grey, origin, self.shape, self.scaled, (rows, columns))


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


def _longer(maps: Floats, rows: int) -> Floats:
    """Maps (3, h, W) with room for more rows."""
    longer = np.empty((maps.shape[0], maps.shape[1] + rows, maps.shape[2]), np.float32)
    longer[:, : maps.shape[1]] = maps
    return longer


def _paint(block: _Block, labels: Ints, strip: Ints, top: int, count: int) -> int:
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
    begin = top - rows.start
    target = strip[: rows.stop - top, columns]
    painted = names[labels[begin:]]
    np.copyto(target, painted, where=(painted > 0) & (target == 0))
    return count + int(inside.sum())


def _span(read: ReadRegion, shape: Shape) -> Span:
    every = math.ceil(math.sqrt(shape[0] * shape[1] / _SAMPLE))
    strip = -(-_STRIP // every) * every
    sample = [
        to_grey(read(slice(top, min(shape[0], top + strip)), slice(0, shape[1]))[::every, ::every])
        for top in range(0, shape[0], strip)
    ]
    return intensity_span(np.concatenate(sample))


def _needs(
    segmenter: Segmenter, read: ReadRegion, shape: Shape, span: Span, request: Request
) -> CellType:
    """What the image needs, judged by its middle where the request leaves it open."""
    middle = tuple(
        slice(max(0, (length - _GLANCE) // 2), min(length, (length + _GLANCE) // 2))
        for length in shape
    )
    grey = normalize(to_grey(read(*middle)), span)
    return segmenter.judge(grey, request)[1]
