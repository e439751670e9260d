"""An ensemble over an image of any size, tile by tile.

A pixel is taken only from a tile that reads the whole receptive field around it (the halo), so that
tiles give the output of one pass over the whole image and need no blending. Tiles lie on a grid
that follows from the image's size alone, whatever part of the image is wanted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowseg.inference.ensemble import Ensemble
from flowseg.inference.flow_field import DeviceField
from flowseg.inference.rescale import rescale, shape_at_zoom

_BATCH = 2**22
"""Pixels that a GPU takes at once."""

_SMALLEST_TILE = 256
"""Pixels of an edge; smaller ones would be mostly halo."""

_log = logging.getLogger(__name__)


class Tile(NamedTuple):
    """Rows and columns of a tile."""

    read: tuple[slice, slice]
    """Of the image: the tile and its halo."""
    keep: tuple[slice, slice]
    """Of what was read: the tile without its halo."""
    write: tuple[slice, slice]
    """Of the image: the same."""


def cut_tiles(shape: tuple[int, int], ensemble: Ensemble) -> list[list[Tile]]:
    """Split an image into square tiles with halos, row by row.

    An image that is not larger than one tile with its halo is not split.
    """
    edge, halo = ensemble.tile, ensemble.halo
    if shape[0] * shape[1] <= (edge + 2 * halo) ** 2:
        image = (slice(0, shape[0]), slice(0, shape[1]))
        return [[Tile(image, image, image)]]
    rows, columns = (_cuts(length, edge, halo) for length in shape)
    return [[Tile(*zip(row, column, strict=True)) for column in columns] for row in rows]


def predict_tiles(
    ensemble: Ensemble,
    read: Callable[[slice, slice], NDArray[np.float32]],
    tiles: Iterable[Tile],
    disagreement: bool = False,
    styles: Sequence[Tensor] | None = None,
) -> Iterator[tuple[Tile, DeviceField]]:
    """The output of the ensemble for each tile without its halo.

    `read` returns the pixels, (h, w) or (2, h, w) float32, at rows and columns. A GPU takes batches
    of tiles of one shape. Only tiles of one image share a batch: in the last bits an output depends
    on its batch, and an image's must not depend on what other images there are.
    """
    for (height, width), group in groupby(tiles, key=_read_shape):
        size = max(1, _BATCH // (height * width)) if ensemble.device.type == "cuda" else 1
        waiting = list(group)
        while waiting:
            batch = waiting[:size]
            images = np.stack([read(*tile.read) for tile in batch])
            try:
                fields = ensemble.predict(images, disagreement, styles)
            except torch.OutOfMemoryError:  # of a GPU, which others may use as well
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                size = 1
                continue
            waiting = waiting[size:]
            for tile, field in zip(batch, fields, strict=True):
                yield tile, field.cropped(*tile.keep)


def predict_rescaled(
    ensemble: Ensemble, grey: NDArray[np.float32], diameter: float, disagreement: bool = False
) -> DeviceField:
    """The flow field, at the networks' scale, of a normalised image (H, W) or (2, H, W).

    The image is rescaled so that cells of `diameter` pixels become as large as those that the
    networks were trained on, and computed in tiles where it is larger than one. Where a GPU has no
    memory for a tile, this and all later images are computed in smaller ones, with the same result.
    """
    while True:
        try:
            return _predict_in_tiles(ensemble, grey, diameter, disagreement)
        except torch.OutOfMemoryError:
            if ensemble.tile <= _SMALLEST_TILE:
                raise
            torch.cuda.empty_cache()
            ensemble.tile //= 2
            _log.warning("the GPU is short of memory: tiles have %d pixels now", ensemble.tile)


def _predict_in_tiles(
    ensemble: Ensemble, grey: NDArray[np.float32], diameter: float, disagreement: bool
) -> DeviceField:
    shape = shape_at_zoom(grey.shape[-2:], ensemble.diameter / diameter, ensemble.stride)
    image = rescale(grey, shape)
    maps = torch.empty((3, *shape), device=ensemble.device)
    distances = torch.empty(shape, device=ensemble.device) if disagreement else None
    logits: NDArray[np.float32] | float = 0.0
    pixels = 0
    tiles = [tile for row in cut_tiles(shape, ensemble) for tile in row]
    styles = None
    if len(tiles) > 1:
        styles = ensemble.styles((image[(..., *tile.read)], tile.keep) for tile in tiles)
    fields = predict_tiles(ensemble, lambda y, x: image[..., y, x], tiles, disagreement, styles)
    for tile, field in fields:
        maps[(slice(None), *tile.write)] = field.maps
        if distances is not None and field.disagreement is not None:
            distances[tile.write] = field.disagreement
        size = math.prod(_read_shape(tile))
        logits, pixels = logits + field.cell_type * size, pixels + size
    return DeviceField(maps, np.asarray(logits / pixels, np.float32), distances)


def _read_shape(tile: Tile) -> tuple[int, int]:
    rows, columns = tile.read
    return rows.stop - rows.start, columns.stop - columns.start


def _cuts(length: int, edge: int, halo: int) -> list[tuple[slice, slice, slice]]:
    """The slices `read`, `keep` and `write` of all tiles along one axis."""
    cuts = []
    for start in range(0, length, edge):
        stop = min(length, start + edge)
        first, last = max(0, start - halo), min(length, stop + halo)
        cuts.append((slice(first, last), slice(start - first, stop - first), slice(start, stop)))
    return cuts
