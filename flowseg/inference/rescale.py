"""Rescaling of an image or of any region of it, with the same result for every pixel.

Coordinates follow from a pixel's index in the whole image alone, so that a region that is rescaled
by itself holds exactly what the rescaled image does. Linear interpolation when enlarging, means of
areas when shrinking; symmetric, so that a rotated image is rescaled to the rotated result.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowseg.arrays.jit import jit

Floats = NDArray[np.float32]
Shape = tuple[int, int]
Region = tuple[slice, slice]


def shape_at_zoom(shape: tuple[int, ...], zoom: float, stride: int) -> Shape:
    """The size of an image enlarged `zoom` times, rounded to multiples of `stride`."""
    height, width = (max(1, round(edge * zoom / stride)) * stride for edge in shape)
    return height, width


def rescale(image: Floats, shape: Shape) -> Floats:
    """A whole image at another size, or each plane of (C, H, W).

    Examples
    --------
    >>> rescale(np.array([[0, 2], [4, 6]], np.float32), (1, 1))
    array([[3.]], dtype=float32)
    >>> rescale(np.array([[0, 1]], np.float32), (1, 4))
    array([[0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    if image.ndim == 3:
        return np.stack([rescale(plane, shape) for plane in image])
    height, width = image.shape
    everything = (slice(0, shape[0]), slice(0, shape[1]))
    return rescale_part(image, (0, 0), (height, width), shape, everything)


def rescale_part(
    part: Floats, origin: Shape, source: Shape, target: Shape, region: Region
) -> Floats:
    """A region of an image that is rescaled from the shape `source` to the shape `target`.

    `part` (h, w) has the pixels of the source that :func:`footprint` gives, or more, and begins at
    the row and column `origin` of it.
    """
    if source == target:
        unscaled = tuple(
            slice(span.start - first, span.stop - first)
            for span, first in zip(region, origin, strict=True)
        )
        return np.ascontiguousarray(part[unscaled], np.float32)
    (rows, row_weights), (columns, column_weights) = (
        _weights(*axis) for axis in zip(source, target, region, strict=True)
    )
    top = int(rows.min())
    strip = np.empty((int(rows.max()) - top + 1, len(columns)), np.float32)
    first = top - origin[0]
    _blend_columns(part[first : first + len(strip)], columns - origin[1], column_weights, strip)
    result = np.empty((len(rows), len(columns)), np.float32)
    _blend_rows(strip, rows - top, row_weights, result)
    return result


def rescale_maps(maps: Tensor, shape: Shape) -> Tensor:
    """Maps (C, H, W) float32 at another size, on their device: each as by :func:`rescale`."""
    if maps.shape[1:] == shape:
        return maps
    if maps.device.type == "cpu":
        return torch.from_numpy(rescale(maps.numpy(), shape))
    return _blend_on_device(maps, shape)


def _blend_on_device(maps: Tensor, shape: Shape) -> Tensor:
    """As the compiled loops below: columns first, and in the same order of additions."""
    for axis in (2, 1):
        length = shape[axis - 1]
        pixels, weights = (
            torch.from_numpy(array).to(maps.device)
            for array in _weights(maps.shape[axis], length, slice(0, length))
        )
        factors = weights if axis == 2 else weights[:, :, None]
        maps = reduce(
            torch.add,
            (maps.index_select(axis, pixels[:, k]) * factors[:, k] for k in range(pixels.shape[1])),
        )
    return maps


def footprint(source: int, target: int, span: slice) -> slice:
    """The source pixels along one axis that the target pixels `span` depend on."""
    if source == target:
        return span
    pixels, _ = _weights(source, target, span)
    return slice(int(pixels.min()), int(pixels.max()) + 1)


def _weights(source: int, target: int, span: slice) -> tuple[NDArray[np.int32], Floats]:
    """For each target pixel of `span` the source pixels it is a mean of, and their weights."""
    index = np.arange(span.start, span.stop, dtype=np.float64)[:, None]
    step = source / target
    if target >= source:
        centre = np.clip((index + 0.5) * step - 0.5, 0, source - 1)
        pixels = np.floor(centre) + np.arange(2)
        weights = 1 - abs(centre - pixels)
    else:
        start, stop = index * step, (index + 1) * step
        pixels = np.floor(start) + np.arange(math.ceil(step) + 1)
        weights = np.clip(np.minimum(stop, pixels + 1) - np.maximum(start, pixels), 0, 1) / step
    inside = np.clip(pixels, 0, source - 1).astype(np.int32)
    return inside, np.where(pixels == inside, weights, 0).astype(np.float32)


@jit
def _blend_columns(image: Any, pixels: Any, weights: Any, result: Any) -> None:
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            total = np.float32(0)
            for k in range(pixels.shape[1]):
                total += weights[x, k] * image[y, pixels[x, k]]
            result[y, x] = total


@jit
def _blend_rows(image: Any, pixels: Any, weights: Any, result: Any) -> None:
    for y in range(result.shape[0]):
        result[y] = 0
        for k in range(pixels.shape[1]):
            weight, row = weights[y, k], image[pixels[y, k]]
            for x in range(row.size):
                result[y, x] += weight * row[x]
