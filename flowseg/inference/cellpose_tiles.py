"""The tiles of Cellpose 3, which give a model of Cellpose the flow field that it has there.

The image is rescaled by linear interpolation, padded with zeros, and cut into overlapping tiles
whose outputs, each with a style of its own, are averaged with weights that taper off towards the
tiles' edges. Sizes, overlap and weights are those of cellpose 3.1.1.3.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowseg.inference.ensemble import Ensemble
from flowseg.inference.flow_field import DeviceField
from flowseg.io.opencv import load_cv2

Floats = NDArray[np.float32]
Shape = tuple[int, int]

_EDGE = 224
_OVERLAP = 0.1
_TAPER, _TAPER_AT = 7.5, 20  # pixels: how fast weights fall, and how far from a tile's edge
_DIVISOR = 16
_BATCH = 8


def predict_cellpose_tiles(
    ensemble: Ensemble, grey: Floats, diameter: float, disagreement: bool = False
) -> DeviceField:
    """The flow field, at its own size, of a normalised image (H, W), or (2, H, W) with nuclei."""
    zoom = ensemble.diameter / diameter
    shape = (grey.shape[-2], grey.shape[-1])
    scaled = (max(1, int(shape[0] * zoom)), max(1, int(shape[1] * zoom)))
    image = grey if scaled == shape else _resize(grey, scaled)
    (top, bottom), (left, right) = (_padding(length) for length in scaled)
    padded = np.pad(image, ((0, 0),) * (grey.ndim - 2) + ((top, bottom), (left, right)))
    outer = padded.shape[-2:]
    rows, columns = (_starts(length) for length in outer)
    height, width = (min(_EDGE, length) for length in outer)
    corners = list(product(rows, columns))
    weights = _taper(height)[:, None] * _taper(width)
    channels = 4 if disagreement else 3
    total = np.zeros((channels, *outer), np.float64)
    share = np.zeros(outer, np.float64)
    logits = np.zeros(ensemble.networks[0].cell_types, np.float32)
    for first in range(0, len(corners), _BATCH):
        batch = corners[first : first + _BATCH]
        tiles = np.stack([padded[..., y : y + height, x : x + width] for y, x in batch])
        for (y, x), field in zip(batch, ensemble.predict(tiles, disagreement), strict=True):
            maps = field.maps.cpu().numpy()
            if field.disagreement is not None:
                maps = np.concatenate([maps, field.disagreement.cpu().numpy()[None]])
            total[:, y : y + height, x : x + width] += weights * maps
            share[y : y + height, x : x + width] += weights
            logits += field.cell_type / len(corners)
    mean = (total / share)[:, top : top + scaled[0], left : left + scaled[1]].astype(np.float32)
    if scaled != shape:
        mean = _resize(mean, shape)
    maps_there: Tensor = torch.from_numpy(np.ascontiguousarray(mean)).to(ensemble.device)
    return DeviceField(maps_there[:3], logits, maps_there[3] if disagreement else None)


def _resize(plane: Floats, shape: Shape) -> Floats:
    if plane.ndim == 3:
        return np.stack([_resize(each, shape) for each in plane])
    resized: Floats = load_cv2().resize(np.ascontiguousarray(plane), shape[::-1])
    return resized


def _padding(length: int) -> tuple[int, int]:
    """Zeros before and after an axis: half a divisor each, and what lacks to a multiple of it."""
    lacking = -length % _DIVISOR
    return _DIVISOR // 2 + lacking // 2, _DIVISOR // 2 + lacking - lacking // 2


def _starts(length: int) -> list[int]:
    """Where the tiles along one axis begin."""
    if length <= _EDGE:
        return [0]
    count = math.ceil((1 + 2 * _OVERLAP) * length / _EDGE)
    starts: list[int] = np.linspace(0, length - _EDGE, count).astype(int).tolist()
    return starts


def _taper(length: int) -> NDArray[np.float64]:
    """The weights of a tile along one axis, of a shorter one those of the middle."""
    distance = np.abs(np.arange(_EDGE) - (_EDGE - 1) / 2)
    weights: NDArray[np.float64] = 1 / (1 + np.exp((distance - (_EDGE / 2 - _TAPER_AT)) / _TAPER))
    first = _EDGE // 2 - length // 2
    return weights[first : first + length]
