"""Intensities: colour to grey, normalisation by percentiles. An image is (H, W) float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from flowseg.errors import FlowsegError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_grey(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """One channel of an image of bool, integer or float, values as stored: (H, W) float32.

    (H, W, C) may be grey (C = 1), RGB (3), or either with alpha (2, 4), which is left out. Colour
    is weighted as ITU-R BT.601; a grey picture stored as colour keeps its values.

    Examples
    --------
    >>> to_grey(np.full((1, 2, 3), 200, np.uint8))
    array([[200., 200.]], dtype=float32)
    """
    image = np.asarray(image)
    if image.dtype.kind not in "buif" or image.ndim not in (2, 3) or 0 in image.shape:
        raise FlowsegError(f"no image: an array of shape {image.shape} and type {image.dtype}")
    if image.ndim == 3:
        channels = image.shape[2]
        if channels > 4:
            raise FlowsegError(
                f"the image has {channels} channels",
                remedy="give one channel, or red, green and blue",
            )
        grey = channels < 3 or bool((image[..., :1] == image[..., 1:3]).all())
        image = image[..., 0] if grey else image[..., :3] @ np.asarray(_LUMA)
    with np.errstate(over="ignore"):  # beyond float32 is infinite; `normalize` deals with that
        return np.ascontiguousarray(image, dtype=np.float32)


class Span(NamedTuple):
    """Percentiles of an image: `low` becomes 0, `high` 1, and invalid pixels `middle`."""

    low: float
    middle: float
    high: float


def intensity_span(image: npt.NDArray[np.float32]) -> Span:
    """1st, 50th and 99th percentile of the finite pixels; all 0 where there is none.

    Where the 1st and the 99th are equal but the image is not constant, its least and largest
    values replace them.
    """
    image = np.asarray(image, np.float32)
    finite = np.isfinite(image)
    values = image if finite.all() else image[finite]
    if values.size == 0:
        return Span(0.0, 0.0, 0.0)
    low, middle, high = (float(v) for v in np.percentile(values, (1, 50, 99)))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return Span(low, middle, high)


def normalize(image: npt.NDArray[np.float32], span: Span | None = None) -> npt.NDArray[np.float32]:
    """Scale an (H, W) image so that its 1st percentile becomes 0, its 99th 1; not clipped.

    Where the image is a part of a larger one, `span` is that of the whole. Pixels that are not
    finite do not count for the percentiles and take the median of those that are. A constant image,
    or one without a finite pixel, becomes zeros.

    Examples
    --------
    >>> normalize(np.array([[5.0, 5.0]]))
    array([[0., 0.]], dtype=float32)
    """
    image = np.asarray(image, np.float32)
    low, middle, high = intensity_span(image) if span is None else span
    if low == high:
        return np.zeros(image.shape, np.float32)
    finite = np.isfinite(image)
    if not finite.all():
        image = np.where(finite, image, middle)
    exact = np.finfo(np.float32).tiny < high - low < np.finfo(np.float32).max / 2
    scaled = (image if exact else image.astype(np.float64)) - low
    scaled /= high - low
    return scaled.astype(np.float32, copy=False)
