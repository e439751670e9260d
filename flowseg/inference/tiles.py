"""The network over an image of any size, tile by tile.

A pixel is taken only from a tile whose cut edges lie beyond the network's reach from it, so that
tiles give the answer of one pass over the whole image and need no blending.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowseg.network.device import autocast
from flowseg.network.unet import FlowNetwork

__all__ = ["FlowField", "predict_field"]

_TILE = 1024
"""Edge of a tile, without the pixels beyond its reach; bounds the memory of one pass."""


class FlowField(NamedTuple):
    """What the network says of one image of H x W pixels, as numpy arrays.

    Attributes
    ----------
    flows : ndarray, shape (2, H, W), float32
        Order (dy, dx), of about unit length inside cells.
    cellprob : ndarray, shape (H, W), float32
        Logit of the probability that a pixel lies in a cell.
    cell_type : ndarray, shape (T,), float32
        Logits of the cell types.
    """

    flows: NDArray[np.float32]
    cellprob: NDArray[np.float32]
    cell_type: NDArray[np.float32]


def predict_field(
    network: FlowNetwork, image: NDArray[np.float32], dtype: torch.dtype, tile: int = _TILE
) -> FlowField:
    """Run the network over an image, in tiles where it is larger than one.

    Parameters
    ----------
    network : FlowNetwork
        In evaluation mode; its device computes.
    image : ndarray, shape (H, W), float32
        Normalised, rescaled to the network's diameter.
    dtype : torch.dtype
        Number type of the convolutions.
    tile : int
        Edge of the square that one pass yields, in pixels.

    Returns
    -------
    FlowField
        At the size of `image`.
    """
    device = next(network.parameters()).device
    stride, margin = network.stride, network.reach
    height, width = image.shape
    padded = _pad(image, stride)
    rows = _cuts(padded.shape[0], tile, margin, stride)
    columns = _cuts(padded.shape[1], tile, margin, stride)
    maps = np.empty((3, *padded.shape), np.float32)
    votes = []
    with torch.inference_mode(), autocast(device, dtype):
        for row in rows:
            for column in columns:
                piece = padded[row.read, column.read][None, None]
                batch = torch.from_numpy(np.ascontiguousarray(piece)).to(device)
                output = network(batch.contiguous(memory_format=torch.channels_last))
                piece_maps = torch.cat((output.flows[0], output.cellprob), 0).float().cpu().numpy()
                maps[:, row.write, column.write] = piece_maps[:, row.keep, column.keep]
                votes.append(output.cell_type[0].float().cpu().numpy() * piece.size)
    maps = maps[:, :height, :width]
    return FlowField(
        flows=(maps[:2] / network.config.flow_scale).astype(np.float32),
        cellprob=np.ascontiguousarray(maps[2]),
        cell_type=(np.sum(votes, axis=0) / padded.size).astype(np.float32),
    )


class _Cut(NamedTuple):
    """Along one axis: what a tile reads, what it keeps of that, and where that belongs."""

    read: slice
    keep: slice
    write: slice


def _cuts(length: int, tile: int, margin: int, stride: int) -> list[_Cut]:
    """Split `length` into equal cores of at most `tile`; each tile reads `margin` beyond."""
    if length <= tile + 2 * margin:
        whole = slice(0, length)
        return [_Cut(whole, whole, whole)]
    count = -(-length // tile)
    edges = [round(i * length / count / stride) * stride for i in range(count)] + [length]
    cuts = []
    for start, stop in pairwise(edges):
        first, last = max(0, start - margin), min(length, stop + margin)
        cuts.append(
            _Cut(slice(first, last), slice(start - first, stop - first), slice(start, stop))
        )
    return cuts


def _pad(image: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Mirrored at the lower and right edge to multiples of `stride`."""
    below, beyond = (-image.shape[0]) % stride, (-image.shape[1]) % stride
    # "symmetric" also serves an image narrower than its padding.
    return np.pad(image, ((0, below), (0, beyond)), mode="symmetric")
