"""Rescaling of a whole image or of any part of it, with the same result for every pixel.

The place of a pixel follows from its index in the whole image alone, so that a part that is
rescaled by itself holds exactly what the whole would. Linear between pixels when enlarging, means
of areas when shrinking; symmetric, so that a turned image is rescaled to the turned result.
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

__all__ = ["footprint", "rescale", "rescale_maps", "rescale_part"]

Floats = NDArray[np.float32]
Shape = tuple[int, int]
Region = tuple[slice, slice]


def rescale(image: Floats, shape: Shape) -> Floats:
    """A whole image at another size.

    Parameters
    ----------
    image : ndarray, shape (H, W), float32
    shape : (int, int)
        Height and width of the result.

    Examples
    --------
    >>> rescale(np.array([[0, 2], [4, 6]], np.float32), (1, 1))
    array([[3.]], dtype=float32)
    >>> rescale(np.array([[0, 1]], np.float32), (1, 4))
    array([[0.  , 0.25, 0.75, 1.  ]], dtype=float32)
    """
    height, width = image.shape
    whole = (slice(0, shape[0]), slice(0, shape[1]))
    return rescale_part(image, (0, 0), (height, width), shape, whole)


def rescale_part(
    part: Floats, origin: Shape, source: Shape, target: Shape, region: Region
) -> Floats:
    """A region of the image that a rescaled whole would be.

    Parameters
    ----------
    part : ndarray, shape (h, w), float32
        The pixels of the source that :func:`footprint` names, or more.
    origin : (int, int)
        Row and column of the source that `part` begins with.
    source, target : (int, int)
        Height and width of the whole before and after.
    region : (slice, slice)
        Rows and columns of the target that are wanted.

    Returns
    -------
    ndarray, float32
        Of the region's size.
    """
    if source == target:
        rows, columns = (
            slice(span.start - first, span.stop - first)
            for span, first in zip(region, origin, strict=True)
        )
        return np.ascontiguousarray(part[rows, columns], np.float32)
    (down, down_shares), (along, along_shares) = (
        _shares(*axis) for axis in zip(source, target, region, strict=True)
    )
    top = int(down.min())
    strip = np.empty((int(down.max()) - top + 1, len(along)), np.float32)
    first = top - origin[0]
    _mix_columns(part[first : first + len(strip)], along - origin[1], along_shares, strip)
    result = np.empty((len(down), len(along)), np.float32)
    _mix_rows(strip, down - top, down_shares, result)
    return result


def rescale_maps(maps: Tensor, shape: Shape) -> Tensor:
    """Maps (C, H, W) float32 at another size, where they lie: each as by :func:`rescale`."""
    if maps.shape[1:] == shape:
        return maps
    if maps.device.type == "cpu":
        return torch.from_numpy(np.stack([rescale(one, shape) for one in maps.numpy()]))
    return _mixed(maps, shape)


def _mixed(maps: Tensor, shape: Shape) -> Tensor:
    """As the compiled loops below: along the rows first, the shares added from first to last."""
    for axis in (2, 1):
        length = shape[axis - 1]
        pixels, shares = (
            torch.from_numpy(part).to(maps.device)
            for part in _shares(maps.shape[axis], length, slice(0, length))
        )
        along = shares if axis == 2 else shares[:, :, None]
        maps = reduce(
            torch.add,
            (maps.index_select(axis, pixels[:, k]) * along[:, k] for k in range(pixels.shape[1])),
        )
    return maps


def footprint(source: int, target: int, span: slice) -> slice:
    """The source pixels along one axis that the target pixels `span` are made of."""
    if source == target:
        return span
    pixels, _ = _shares(source, target, span)
    return slice(int(pixels.min()), int(pixels.max()) + 1)


def _shares(source: int, target: int, span: slice) -> tuple[NDArray[np.int32], Floats]:
    """For each target pixel of `span` the source pixels it is made of, and their shares."""
    index = np.arange(span.start, span.stop, dtype=np.float64)[:, None]
    step = source / target
    if target >= source:
        place = np.clip((index + 0.5) * step - 0.5, 0, source - 1)
        pixels = np.floor(place) + np.arange(2)
        shares = 1 - abs(place - pixels)
    else:
        start, stop = index * step, (index + 1) * step
        pixels = np.floor(start) + np.arange(math.ceil(step) + 1)
        shares = np.clip(np.minimum(stop, pixels + 1) - np.maximum(start, pixels), 0, 1) / step
    inside = np.clip(pixels, 0, source - 1).astype(np.int32)
    return inside, np.where(pixels == inside, shares, 0).astype(np.float32)


@jit
def _mix_columns(image: Any, pixels: Any, shares: Any, result: Any) -> None:
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            total = np.float32(0)
            for k in range(pixels.shape[1]):
                total += shares[x, k] * image[y, pixels[x, k]]
            result[y, x] = total


@jit
def _mix_rows(image: Any, pixels: Any, shares: Any, result: Any) -> None:
    for y in range(result.shape[0]):
        result[y] = 0
        for k in range(pixels.shape[1]):
            share, row = shares[y, k], image[pixels[y, k]]
            for x in range(row.size):
                result[y, x] += share * row[x]
