"""An ensemble over an image of any size, tile by tile.

A pixel is taken only from a tile that reads the whole receptive field around it (the halo), so that
tiles give the output of one pass over the whole image and need no blending. Tiles lie on a grid
that follows from the image's size alone, whatever part of the image is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowseg.inference.ensemble import Ensemble, EnsembleOutput
from flowseg.inference.flow_field import DeviceField
from flowseg.inference.rescale import rescale, shape_at_zoom

_BATCH = 2**22
"""Pixels that a GPU takes at once."""


class Tile(NamedTuple):
    """Rows and columns of a tile.

    Attributes
    ----------
    read : (slice, slice)
        Of the image: the tile and its halo.
    keep : (slice, slice)
        Of what was read: the tile without its halo.
    write : (slice, slice)
        Of the image: the same.
    """

    read: tuple[slice, slice]
    keep: tuple[slice, slice]
    write: tuple[slice, slice]


def cut_tiles(shape: tuple[int, int], ensemble: Ensemble) -> list[list[Tile]]:
    """Split an image into square tiles with halos.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    ensemble : Ensemble
        Gives the tile's edge and halo; an image not larger than one tile with its halo is not
        split.

    Returns
    -------
    list of list of Tile
        Row by row.
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
) -> Iterator[tuple[Tile, EnsembleOutput]]:
    """Run the ensemble on tiles; on a GPU in batches of tiles of one shape.

    Only tiles of one image share a batch: in the last bits an output depends on its batch, and an
    image's must not depend on what other images there are.

    Parameters
    ----------
    ensemble : Ensemble
    read : callable
        From rows and columns to pixels, (h, w) float32.
    tiles : iterable of Tile
    disagreement : bool
        As in :meth:`Ensemble.predict`.

    Yields
    ------
    Tile, EnsembleOutput
        The output, a batch of one, for the tile and its halo.
    """
    for (height, width), group in groupby(tiles, key=_read_shape):
        size = max(1, _BATCH // (height * width)) if ensemble.device.type == "cuda" else 1
        alike = list(group)
        for first in range(0, len(alike), size):
            batch = alike[first : first + size]
            output = ensemble.predict(np.stack([read(*tile.read) for tile in batch]), disagreement)
            for k, tile in enumerate(batch):
                fields = [None if field is None else field[k : k + 1] for field in output]
                yield tile, EnsembleOutput(*fields)  # type: ignore[arg-type]


def predict_rescaled(
    ensemble: Ensemble, grey: NDArray[np.float32], diameter: float, disagreement: bool = False
) -> DeviceField:
    """The flow field of a normalised image, rescaled so that its cells fit the networks.

    Parameters
    ----------
    ensemble : Ensemble
    grey : ndarray, shape (H, W), float32
        From :func:`flowseg.arrays.intensity.normalize`.
    diameter : float
        Mean cell diameter, in pixels of `grey`.
    disagreement : bool
        As in :meth:`Ensemble.predict`.

    Returns
    -------
    DeviceField
        At the networks' scale.
    """
    shape = shape_at_zoom(grey.shape, ensemble.diameter / diameter, ensemble.stride)
    return predict_field(ensemble, rescale(grey, shape), disagreement=disagreement)


def predict_field(
    ensemble: Ensemble,
    image: NDArray[np.float32],
    *,
    disagreement: bool = False,
) -> DeviceField:
    """The flow field of an image at the networks' scale, in tiles where it is larger than one.

    Parameters
    ----------
    ensemble : Ensemble
        Its device computes.
    image : ndarray, shape (H, W), float32
        Normalised, rescaled to the ensemble's diameter.
    disagreement : bool
        As in :meth:`Ensemble.predict`.

    Returns
    -------
    DeviceField
        At the size of `image`.
    """
    height, width = image.shape
    padded = _pad(image, ensemble.stride)
    maps = torch.empty((3, *padded.shape), device=ensemble.device)
    distances = torch.empty(padded.shape, device=ensemble.device) if disagreement else None
    logits, pixels = 0.0, 0
    tiles = [tile for row in cut_tiles(padded.shape, ensemble) for tile in row]
    for tile, output in predict_tiles(ensemble, lambda r, c: padded[r, c], tiles, disagreement):
        maps[(slice(None), *tile.write)] = output.maps[(0, slice(None), *tile.keep)]
        if distances is not None and output.disagreement is not None:
            distances[tile.write] = output.disagreement[0][tile.keep]
        size = output.maps[0, 0].numel()
        logits, pixels = logits + output.cell_type[0] * size, pixels + size
    return DeviceField(
        maps[:, :height, :width].contiguous(),
        np.asarray(logits / pixels, np.float32),
        None if distances is None else distances[:height, :width].contiguous(),
    )


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


def _pad(image: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Mirrored at the lower and right edge to multiples of `stride`."""
    bottom, right = (-image.shape[0]) % stride, (-image.shape[1]) % stride
    # "symmetric" also serves an image narrower than its padding.
    return np.pad(image, ((0, bottom), (0, right)), mode="symmetric")
