"""An image larger than memory: read and segmented in blocks, its label image some rows at a time.

The flow field does not depend on the blocks: it comes from the same tiles as that of a whole
image. Only a band of it is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowseg.arrays.intensity import Normalization, Span, intensity_span, normalize, to_grey
from flowseg.arrays.jit import threads
from flowseg.arrays.labels import clear_border
from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.inference.auto_scale import resolve_settings
from flowseg.inference.blocks import Block, BlockSizes, assemble, cut_blocks
from flowseg.inference.flow_field import FlowField, field_to_labels, to_host
from flowseg.inference.options import SegmentOptions, known_diameter
from flowseg.inference.pipeline import Stage, pipeline
from flowseg.inference.rescale import footprint, rescale_part, shape_at_zoom
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.tiles import cut_tiles, predict_tiles
from flowseg.io.image_source import ReadRegion

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Shape = tuple[int, int]

_SAMPLE = 2**24
"""Pixels that the intensities of an image are estimated from; of a larger one every k-th."""

_SAMPLE_ROWS = 512
"""Rows read at once for that."""

_CENTRE = 1024
"""Edge of the centre that the cell type and the diameter are predicted from."""

_MIN_HALO = 128
"""Pixels."""


class SlidePlan(NamedTuple):
    """An image's size, that at the networks' scale, intensities and settings; can be pickled."""

    shape: Shape
    scaled: Shape
    spans: tuple[Span, ...]
    """Of the cells, and maybe of the nuclei."""
    settings: CellTypeSettings
    cell_type: str
    exclude_border: bool = False
    styles: list[Tensor] | None = None
    """Of the whole image, for networks of Cellpose; on the host."""

    def read_scaled(self, reads: Sequence[ReadRegion], rows: slice, columns: slice) -> Floats:
        """A region of the normalised image at the networks' scale: (h, w), or (2, h, w)."""
        region = (rows, columns)
        return _stack(
            [
                self.read_rescaled(read, span, self.scaled, region)
                for read, span in zip(reads, self.spans, strict=True)
            ]
        )

    def read_rescaled(
        self, read: ReadRegion, span: Span, target: Shape, region: tuple[slice, slice]
    ) -> Floats:
        """A region of the cells or of the nuclei, normalised and rescaled to `target`."""
        rows, columns = (footprint(*axis) for axis in zip(self.shape, target, region, strict=True))
        grey = normalize(to_grey(read(rows, columns)), span)
        return rescale_part(grey, (rows.start, columns.start), self.shape, target, region)

    def restore(self, maps: Floats, origin: Shape, region: tuple[slice, slice]) -> Floats:
        """A region of the image of maps (C, h, w) that begin at `origin` at the networks' scale."""
        return np.stack([rescale_part(m, origin, self.scaled, self.shape, region) for m in maps])

    def footprint(self, region: tuple[slice, slice]) -> tuple[slice, slice]:
        """Rows and columns at the networks' scale that the flows of a region depend on."""
        rows, columns = (
            footprint(*axis) for axis in zip(self.scaled, self.shape, region, strict=True)
        )
        return rows, columns

    def blocks(self, sizes: BlockSizes) -> list[list[Block]]:
        """The image's blocks, row by row."""
        halo = max(_MIN_HALO, math.ceil(sizes.halo * known_diameter(self.settings)))
        return cut_blocks(self.shape, sizes, halo)

    def labels(self, field: FlowField, block: Block) -> Ints:
        """The labels of a block's window, where asked without cells that the image's edge cuts."""
        labels = field_to_labels(field, self.settings)
        if not self.exclude_border:
            return labels
        (height, width), (rows, columns) = self.shape, block.window
        top, left = rows.start == 0, columns.start == 0
        return clear_border(labels, (top, rows.stop == height, left, columns.stop == width))


def plan_slide(
    segmenter: Segmenter, reads: Sequence[ReadRegion], shape: Shape, options: SegmentOptions
) -> SlidePlan:
    """Measure the intensities of an image of any size, and resolve its settings on its centre.

    `reads` read the cells, and maybe the nuclei.
    """
    if options.disagreement:
        raise FlowsegError(
            f"an image of {shape[1]} x {shape[0]} pixels is computed in blocks, of which no map "
            "of disagreement is made",
            remedy="leave the option out, or cut the image into smaller ones",
        )
    if options.cellpose_tiles:
        raise FlowsegError(
            f"an image of {shape[1]} x {shape[0]} pixels is computed in blocks, not in the tiles "
            "of Cellpose",
            remedy="leave out --cellpose-tiles, or cut the image into smaller ones",
        )
    spans = tuple(_span(read, shape, segmenter.card.normalization) for read in reads)
    rows, columns = (
        slice(max(0, (length - _CENTRE) // 2), min(length, (length + _CENTRE) // 2))
        for length in shape
    )
    centre = _stack(
        [
            normalize(to_grey(read(rows, columns)), span)
            for read, span in zip(reads, spans, strict=True)
        ]
    )
    cell_type, settings = resolve_settings(segmenter, centre, options)
    zoom = segmenter.ensemble.diameter / known_diameter(settings)
    plan = SlidePlan(
        shape=shape,
        scaled=shape_at_zoom(shape, zoom, segmenter.ensemble.stride),
        spans=spans,
        settings=settings,
        cell_type=cell_type,
        exclude_border=options.exclude_border,
    )
    tiles = (tile for row in cut_tiles(plan.scaled, segmenter.ensemble) for tile in row)
    parts = ((plan.read_scaled(reads, *tile.read), tile.keep) for tile in tiles)
    styles = segmenter.ensemble.styles(parts)
    return plan if styles is None else plan._replace(styles=[style.cpu() for style in styles])


def segment_slide(
    segmenter: Segmenter,
    reads: Sequence[ReadRegion],
    plan: SlidePlan,
    sizes: BlockSizes = BlockSizes(),  # noqa: B008
) -> Generator[Ints, None, None]:
    """The label image (H, W) int32 of an image of any size, from the top, some rows at a time.

    Ids are 1, 2 ... in reading order; `reads`, as in `plan_slide`, are called from a
    thread of their own.
    """
    band = _FlowBand(segmenter, reads, plan)
    rows = plan.blocks(sizes)
    blocks = [block for row in rows for block in row]

    def block_labels(part: tuple[FlowField, Block]) -> Ints:
        return plan.labels(*part)

    outcomes = pipeline(
        blocks,
        [Stage(lambda block: (band.field(block), block), 1), Stage(block_labels, threads())],
        weight=lambda _: 1,
        limit=len(blocks),
        ahead=threads() + 2,
    )
    with closing(outcomes):
        yield from assemble(rows, (outcome.get() for outcome in outcomes))


class _FlowBand:
    """The flow field at the image's own size, as a band of rows that moves down."""

    def __init__(self, segmenter: Segmenter, reads: Sequence[ReadRegion], plan: SlidePlan) -> None:
        self.ensemble = segmenter.ensemble
        self.reads = reads
        self.plan = plan
        self.tile_rows = cut_tiles(plan.scaled, segmenter.ensemble)
        self.top = 0  # of the band, in the image
        self.maps = np.zeros((3, 0, plan.shape[1]), np.float32)
        self.scaled_top = 0  # of the maps that the next rows depend on, at the networks' scale
        self.scaled_maps = np.zeros((3, 0, plan.scaled[1]), np.float32)

    def field(self, block: Block) -> FlowField:
        """The field of a block's window; blocks must come row by row, from the top."""
        rows, columns = block.window
        self.maps, self.top = self.maps[:, rows.start - self.top :], rows.start
        while self.top + self.maps.shape[1] < rows.stop:
            self._grow()
        part = self.maps[:, rows.start - self.top : rows.stop - self.top, columns]
        return FlowField(part[:2].copy(), part[2].copy())

    def _grow(self) -> None:
        """Predict the next row of tiles, and rescale the rows of the image that it completes."""
        plan, tiles = self.plan, self.tile_rows.pop(0)
        read_scaled = partial(plan.read_scaled, self.reads)
        predicted = predict_tiles(self.ensemble, read_scaled, tiles, styles=plan.styles)
        row = np.concatenate([to_host(field.maps) for _, field in predicted], axis=2)
        self.scaled_maps = np.concatenate((self.scaled_maps, row), axis=1)
        start, stop = self.top + self.maps.shape[1], self._complete(tiles[0].write[0].stop)
        if stop <= start:
            return
        region = (slice(start, stop), slice(0, plan.shape[1]))
        restored = plan.restore(self.scaled_maps, (self.scaled_top, 0), region)
        self.maps = np.concatenate((self.maps, restored), axis=1)
        if stop < plan.shape[0]:
            first = footprint(plan.scaled[0], plan.shape[0], slice(stop, stop + 1)).start
            self.scaled_maps = self.scaled_maps[:, first - self.scaled_top :].copy()
            self.scaled_top = first

    def _complete(self, bottom: int) -> int:
        """Rows of the image that depend only on the first `bottom` rows at the networks' scale."""
        scaled, height = self.plan.scaled[0], self.plan.shape[0]
        stop = min(height, bottom * height // scaled + 2)
        while footprint(scaled, height, slice(stop - 1, stop)).stop > bottom:
            stop -= 1
        return stop


def _stack(planes: list[Floats]) -> Floats:
    """The cells alone (h, w), or with the nuclei (2, h, w)."""
    return planes[0] if len(planes) == 1 else np.stack(planes)


def _span(read: ReadRegion, shape: Shape, how: Normalization) -> Span:
    step = math.ceil(math.sqrt(shape[0] * shape[1] / _SAMPLE))
    rows = -(-_SAMPLE_ROWS // step) * step
    sample = [
        to_grey(read(slice(top, min(shape[0], top + rows)), slice(0, shape[1]))[::step, ::step])
        for top in range(0, shape[0], rows)
    ]
    return intensity_span(np.concatenate(sample), how)
