"""An image larger than memory: read, computed and followed in blocks, its labels in strips.

The flow field does not depend on the blocks: it comes from the same tiles as that of a whole
image. Only a band of it is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.intensity import Span, intensity_span, normalize, to_grey
from flowseg.arrays.jit import threads
from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.inference.blocks import Block, BlockSizes, assemble, cut_blocks
from flowseg.inference.flow_field import FlowField, field_to_labels, to_host
from flowseg.inference.pipeline import Stage, pipeline
from flowseg.inference.rescale import footprint, rescale_part
from flowseg.inference.segmenter import Segmenter, SegmentOptions
from flowseg.inference.tiles import predict_tiles, tile_rows
from flowseg.io.image_source import ReadRegion

__all__ = ["SlidePlan", "plan_slide", "segment_slide"]

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Shape = tuple[int, int]

_SAMPLE = 2**24
"""Pixels that the intensities of an image are judged by; of a larger one every k-th."""

_STRIP = 512
"""Rows read at once for that."""

_GLANCE = 1024
"""Edge of the middle that tells the cell type and the size."""

_LEAST_REACH = 128
"""Pixels that blocks overlap at least."""


class SlidePlan(NamedTuple):
    """What is known of an image before it is computed.

    Attributes
    ----------
    shape, scaled : (int, int)
        Height and width of the image, and at the networks' scale.
    span : Span
        Its intensities.
    needs : CellType
    """

    shape: Shape
    scaled: Shape
    span: Span
    settings: CellTypeSettings

    def grey(self, read: ReadRegion, rows: slice, columns: slice) -> Floats:
        """A part of the image, normalised as the whole."""
        return normalize(to_grey(read(rows, columns)), self.span)

    def pixels(self, read: ReadRegion, rows: slice, columns: slice) -> Floats:
        """A part of the image that the networks see."""
        return self.reduced(read, self.scaled, (rows, columns))

    def reduced(self, read: ReadRegion, target: Shape, region: tuple[slice, slice]) -> Floats:
        """A region of what the normalised image would be at another size."""
        rows, columns = (footprint(*axis) for axis in zip(self.shape, target, region, strict=True))
        grey = self.grey(read, rows, columns)
        return rescale_part(grey, (rows.start, columns.start), self.shape, target, region)

    def seen_by_networks(self, region: tuple[slice, slice]) -> tuple[slice, slice]:
        """The rows and columns at the networks' scale that a region's flows are made of."""
        rows, columns = (
            footprint(*axis) for axis in zip(self.scaled, self.shape, region, strict=True)
        )
        return rows, columns

    def blocks(self, sizes: BlockSizes) -> list[list[Block]]:
        """The image's blocks, row by row."""
        reach = max(_LEAST_REACH, math.ceil(sizes.reach * (self.settings.diameter or 0.0)))
        return cut_blocks(self.shape, sizes, reach)


def plan_slide(
    segmenter: Segmenter, read: ReadRegion, shape: Shape, options: SegmentOptions
) -> SlidePlan:
    """Look at an image of any size: its intensities, and what the cells of its middle need.

    Parameters
    ----------
    segmenter : Segmenter
    read : callable
        From rows and columns (slices) to the image's pixels there.
    shape : (int, int)
        Height and width of the image.
    request : Request
        As for :meth:`Segmenter.segment`; without a map of disagreement.
    """
    if options.disagreement:
        raise FlowsegError(
            f"an image of {shape[1]} x {shape[0]} pixels is computed in blocks, of which no map "
            "of disagreement is made",
            remedy="leave the option out, or cut the image into smaller ones",
        )
    span = _span(read, shape)
    rows, columns = (
        slice(max(0, (length - _GLANCE) // 2), min(length, (length + _GLANCE) // 2))
        for length in shape
    )
    _, settings = segmenter.resolve_settings(normalize(to_grey(read(rows, columns)), span), options)
    return SlidePlan(shape, segmenter.scaled_shape(shape, settings), span, settings)


def segment_slide(
    segmenter: Segmenter,
    read: ReadRegion,
    plan: SlidePlan,
    sizes: BlockSizes = BlockSizes(),  # noqa: B008
) -> Generator[Ints, None, None]:
    """Find the instances of an image of any size.

    Parameters
    ----------
    segmenter : Segmenter
    read : callable
        From rows and columns (slices) to the image's pixels there; called from a thread of its own.
    plan : SlidePlan
        From :func:`plan_slide`.
    sizes : BlockSizes

    Yields
    ------
    ndarray, shape (h, W), int32
        The label image from the top, in strips; ids 1, 2 ... in reading order.
    """
    band = _Band(segmenter, read, plan)
    rows = plan.blocks(sizes)
    blocks = [block for row in rows for block in row]

    def followed(field: FlowField) -> Ints:
        return field_to_labels(field, plan.settings, segmenter.device)

    outcomes = pipeline(
        blocks,
        [Stage(band.field, 1), Stage(followed, threads())],
        weight=lambda _: 1,
        limit=len(blocks),
        ahead=threads() + 2,
    )
    with closing(outcomes):
        yield from assemble(rows, (outcome.get() for outcome in outcomes))


class _Band:
    """The flow field at the image's own size, as a band of rows that moves down."""

    def __init__(self, segmenter: Segmenter, read: ReadRegion, plan: SlidePlan) -> None:
        self.ensemble = segmenter.ensemble
        self.read = read
        self.plan = plan
        self.shape, self.scaled = plan.shape, plan.scaled
        self.rows = tile_rows(plan.scaled, segmenter.ensemble)
        self.top = 0  # of the band, in the image
        self.maps = np.zeros((3, 0, self.shape[1]), np.float32)
        self.scaled_top = 0  # of what the band's next rows are made of, at the networks' scale
        self.scaled_maps = np.zeros((3, 0, self.scaled[1]), np.float32)

    def field(self, block: Block) -> FlowField:
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
        pixels = partial(self.plan.pixels, self.read)
        for tile, answer in predict_tiles(self.ensemble, pixels, row):
            kept = answer.maps[(0, slice(None), *tile.keep)]
            self.scaled_maps[:, left:, tile.write[1]] = to_host(kept)
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


def _longer(maps: Floats, rows: int) -> Floats:
    """Maps (3, h, W) with room for more rows."""
    longer = np.empty((maps.shape[0], maps.shape[1] + rows, maps.shape[2]), np.float32)
    longer[:, : maps.shape[1]] = maps
    return longer


def _span(read: ReadRegion, shape: Shape) -> Span:
    every = math.ceil(math.sqrt(shape[0] * shape[1] / _SAMPLE))
    strip = -(-_STRIP // every) * every
    sample = [
        to_grey(read(slice(top, min(shape[0], top + strip)), slice(0, shape[1]))[::every, ::every])
        for top in range(0, shape[0], strip)
    ]
    return intensity_span(np.concatenate(sample))
