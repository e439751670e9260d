"""A committee over an image of any size, tile by tile.

A pixel is taken only from a tile whose cut edges lie beyond the networks' reach from it, so that
tiles give the answer of one pass over the whole image and need no blending. Tiles lie on a grid
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

__all__ = ["Tile", "cut", "predict_field", "predict_tiles", "tile_rows"]

_BATCH = 2**22
"""Pixels that a GPU takes at once."""


class Tile(NamedTuple):
    """What a tile reads of the image, what it keeps of that, and where that belongs."""

    read: tuple[slice, slice]
    keep: tuple[slice, slice]
    write: tuple[slice, slice]


def cut(shape: tuple[int, int], ensemble: Ensemble) -> list[Tile]:
    """Split an image into squares; each tile reads the committee's reach beyond its own.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    committee : Committee
        Its `tile` is the edge of a square; an image not larger than one tile with its margins
        stays whole.

    Returns
    -------
    list of Tile
        Row by row.
    """
    tile, margin = ensemble.tile, ensemble.reach
    if shape[0] * shape[1] <= (tile + 2 * margin) ** 2:
        whole = (slice(0, shape[0]), slice(0, shape[1]))
        return [Tile(whole, whole, whole)]
    rows, columns = (_cuts(length, tile, margin) for length in shape)
    return [Tile(*zip(row, column, strict=True)) for row in rows for column in columns]


def tile_rows(shape: tuple[int, int], ensemble: Ensemble) -> list[list[Tile]]:
    """The same tiles, each row in a list of its own."""
    rows = groupby(cut(shape, ensemble), key=lambda tile: tile.write[0].start)
    return [list(row) for _, row in rows]


def predict_tiles(
    ensemble: Ensemble,
    read: Callable[[slice, slice], NDArray[np.float32]],
    tiles: Iterable[Tile],
    disagreement: bool = False,
) -> Iterator[tuple[Tile, EnsembleOutput]]:
    """Ask the committee about tiles; on a GPU several of one shape at once.

    Only tiles of one image share a batch: in the last bits an answer depends on its batch, and an
    image's must not depend on what other images there are.

    Parameters
    ----------
    committee : Committee
    read : callable
        The pixels of some rows and columns, (h, w) float32.
    tiles : iterable of Tile
    disagreement : bool
        As in :meth:`Ensemble.predict`.

    Yields
    ------
    Tile, Answer
        The answer of a batch of one, for all that the tile read.
    """
    for (height, width), group in groupby(tiles, key=_shape):
        count = max(1, _BATCH // (height * width)) if ensemble.device.type == "cuda" else 1
        waiting = list(group)
        for first in range(0, len(waiting), count):
            batch = waiting[first : first + count]
            answer = ensemble.predict(np.stack([read(*tile.read) for tile in batch]), disagreement)
            for k, tile in enumerate(batch):
                one = [None if part is None else part[k : k + 1] for part in answer]
                yield tile, EnsembleOutput(*one)  # type: ignore[arg-type]


def predict_field(
    ensemble: Ensemble,
    image: NDArray[np.float32],
    *,
    disagreement: bool = False,
) -> DeviceField:
    """Ask the committee about an image, in tiles where it is larger than one.

    Parameters
    ----------
    committee : Committee
        Its device computes.
    image : ndarray, shape (H, W), float32
        Normalised, rescaled to the committee's diameter.
    disagreement : bool
        As in :meth:`Ensemble.predict`.

    Returns
    -------
    ResidentField
        At the size of `image`.
    """
    height, width = image.shape
    padded = _pad(image, ensemble.stride)
    device = ensemble.device
    maps = torch.empty((3, *padded.shape), device=device)
    apart = torch.empty(padded.shape, device=device) if disagreement else None
    votes, weight = 0.0, 0
    tiles = cut(padded.shape, ensemble)
    for piece, answer in predict_tiles(ensemble, lambda r, c: padded[r, c], tiles, disagreement):
        maps[(slice(None), *piece.write)] = answer.maps[(0, slice(None), *piece.keep)]
        if apart is not None and answer.disagreement is not None:
            apart[piece.write] = answer.disagreement[0][piece.keep]
        size = answer.maps[0, 0].numel()
        votes, weight = votes + answer.cell_type[0] * size, weight + size
    return DeviceField(
        maps[:, :height, :width].contiguous(),
        np.asarray(votes / weight, np.float32),
        None if apart is None else apart[:height, :width].contiguous(),
    )


def _shape(tile: Tile) -> tuple[int, int]:
    rows, columns = tile.read
    return rows.stop - rows.start, columns.stop - columns.start


def _cuts(length: int, tile: int, margin: int) -> list[tuple[slice, slice, slice]]:
    """Along one axis: what a tile reads, what it keeps of that, and where that belongs."""
    cuts = []
    for start in range(0, length, tile):
        stop = min(length, start + tile)
        first, last = max(0, start - margin), min(length, stop + margin)
        cuts.append((slice(first, last), slice(start - first, stop - first), slice(start, stop)))
    return cuts


def _pad(image: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Mirrored at the lower and right edge to multiples of `stride`."""
    below, beyond = (-image.shape[0]) % stride, (-image.shape[1]) % stride
    # "symmetric" also serves an image narrower than its padding.
    return np.pad(image, ((0, below), (0, beyond)), mode="symmetric")
