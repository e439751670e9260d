"""Intensities: colour to grey, normalisation by percentiles. An image is (H, W) float32."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from flowseg.errors import FlowsegError

_FLAT_SHARE = 0.004
"""Of an image's pixels; fewer of one value move no percentile."""
_GAP = 0.25
"""Distance of a flat value from all others, as a part of their span."""
_SHARP = 0.85
"""Share of the pixels beside a flat value that must lie between the others' percentiles."""
_FLAT_VALUES = 4
_FAR = 1e6
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
    if image.ndim == 4:
        raise FlowsegError(
            f"an array of shape {image.shape} is several images", remedy="give them as a list"
        )
    if image.ndim == 3 and image.shape[0] <= 4 < min(image.shape[1:]):
        raise FlowsegError(
            f"an array of shape {image.shape} has its channels first",
            remedy="give (H, W, C): np.moveaxis(image, 0, -1)",
        )
    if image.dtype.kind not in "buif" or image.ndim not in (2, 3) or 0 in image.shape:
        raise FlowsegError(f"no image: an array of shape {image.shape} and type {image.dtype}")
    if image.ndim == 3:
        channels = image.shape[2]
        if channels > 4:
            raise FlowsegError(
                f"the image has {channels} channels",
                remedy="give one channel, or red, green and blue; several images as a list",
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


class Normalization(Protocol):
    """Which intensities become 0 and 1."""

    @property
    def percentiles(self) -> tuple[float, float]:
        """Of each image's pixels."""

    @property
    def range(self) -> tuple[float, float] | None:
        """The same two values for every image, as stored; None: by the percentiles."""


class _Percentiles(NamedTuple):
    percentiles: tuple[float, float] = (1.0, 99.0)
    range: tuple[float, float] | None = None


DEFAULT: Normalization = _Percentiles()
"""The 1st and the 99th percentile."""


def intensity_span(image: npt.NDArray[np.float32], how: Normalization = DEFAULT) -> Span:
    """1st, 50th and 99th percentile (or those of `how`) of the pixels that count.

    Pixels that are not finite do not count, nor does flat padding (a frame, the surroundings of a
    round field of view, gaps between tiles) or a flat saturated mark such as a scale bar. All 0
    where no pixel is left. Where both percentiles are equal but the image is not constant, its
    least and largest values replace them.
    """
    image = np.asarray(image, np.float32)
    counting = np.isfinite(image)
    values = image if counting.all() else image[counting]
    if how.range is not None:
        low, high = how.range
        return Span(low, float(np.median(values)) if values.size else low, high)
    if values.size == 0:
        return Span(0.0, 0.0, 0.0)
    points = (how.percentiles[0], 50, how.percentiles[1])
    for _ in range(_FLAT_VALUES):
        flat = _flat_value(image, values)
        if flat is None:
            break
        values = values[values != flat]
    low, middle, high = (float(v) for v in np.percentile(values, points))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return Span(low, middle, high)


def _flat_value(image: npt.NDArray[np.float32], values: npt.NDArray[Any]) -> float | None:
    """The least or largest of the values, where its pixels are no part of the picture.

    They are many, far from all other values, and border on ordinary ones: a saturated cell has
    a gradient around it, a frame or a scale bar has none.
    """
    for extreme in (float(values.min()), float(values.max())):
        count = np.count_nonzero(values == extreme)
        if count < max(2, _FLAT_SHARE * image.size) or count == values.size:
            continue
        others = values[values != extreme]
        low, high = (float(v) for v in np.percentile(others, (1, 99)))
        if low == high or low - _GAP * (high - low) <= extreme <= high + _GAP * (high - low):
            continue
        flat = image == extreme
        beside = np.zeros_like(flat)
        for axis in range(image.ndim):
            one, other = (np.moveaxis(a, axis, 0) for a in (flat, beside))
            other[1:] |= one[:-1]
            other[:-1] |= one[1:]
        edge = image[beside & ~flat]
        rest = ~flat & np.isfinite(image)
        ordinary = float(np.mean((edge >= low) & (edge <= high))) if edge.size else 0.0
        if ordinary > _SHARP and _is_one_piece(rest):
            return extreme
    return None


def _is_one_piece(pixels: npt.NDArray[np.bool_]) -> bool:
    """Whether pixels fill half of their bounding box: a field of view does, cells do not."""
    box = pixels
    for axis in range(pixels.ndim):
        used = np.flatnonzero(pixels.any(axis=tuple(set(range(pixels.ndim)) - {axis})))
        box = np.take(box, np.arange(used[0], used[-1] + 1), axis)
    return bool(box.mean() >= 0.5)


def normalize(
    image: npt.NDArray[np.float32], span: Span | None = None, how: Normalization = DEFAULT
) -> npt.NDArray[np.float32]:
    """Scale an (H, W) image so that its 1st percentile becomes 0, its 99th 1; not clipped.

    `how` names other percentiles or a fixed range. Where the image is a part of a larger one,
    `span` is that of the whole; see `intensity_span` for the pixels that count. Pixels that are
    not finite take the median. A constant image, or one without a finite pixel, becomes zeros.

    Examples
    --------
    >>> normalize(np.array([[5.0, 5.0]]))
    array([[0., 0.]], dtype=float32)
    """
    image = np.asarray(image, np.float32)
    low, middle, high = intensity_span(image, how) if span is None else span
    if low == high:
        return np.zeros(image.shape, np.float32)
    finite = np.isfinite(image)
    if not finite.all():
        image = np.where(finite, image, middle)
    exact = np.finfo(np.float32).tiny < high - low < np.finfo(np.float32).max / 2
    scaled = (image if exact else image.astype(np.float64)) - low
    with np.errstate(over="ignore"):  # clipped below
        scaled /= high - low
    np.clip(scaled, -_FAR, _FAR, out=scaled)  # the value of a padding may be anything
    return scaled.astype(np.float32, copy=False)
