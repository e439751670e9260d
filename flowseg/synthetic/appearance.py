"""Appearance of drawn cells: parameters of each cell type, and random shapes made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from flowseg.io.opencv import load_cv2

Points = npt.NDArray[np.float64]
Range = tuple[float, float]

_SUBPIXELS = 8  # outlines are drawn to 1/8 px


@dataclass(frozen=True, kw_only=True)
class CellAppearance:
    """Appearance of the cells of one type. Lengths in pixels, densities per 10,000 pixels."""

    density: float
    """Cells."""
    crowding: float
    """Share of the cells that are placed next to another one."""
    radius: float
    """Median half width of the cell body."""
    log_radius_std: float
    """Standard deviation of the logarithm of that."""
    elongation: Range
    """Length of the body over its width."""
    processes: tuple[int, int]
    """Number of thick processes; they belong to the cell."""
    process_length: Range
    """Their length over the body's half width."""
    polar: bool
    """Whether they leave at the body's two ends rather than all around."""
    neurites: int
    """At most so many thin processes a cell; they are drawn but belong to no cell."""
    neurite_length: Range
    contrast: Range
    """Optical thickness of the body."""
    rim: float
    """Width over which the body becomes thick; a thin, flat cell shows its rim alone."""
    texture: float
    """Strength of the structure within the cell."""
    debris: float
    """Density of small bright-rimmed dots that are no cells."""
    noise: float
    """Standard deviation of the camera's noise, in grey levels."""


APPEARANCES: Mapping[str, CellAppearance] = MappingProxyType(
    {
        "shsy5y": CellAppearance(
            density=7.5,
            crowding=0.4,
            radius=4.9,
            log_radius_std=0.22,
            elongation=(1.2, 2.4),
            processes=(1, 3),
            process_length=(1.4, 3.6),
            polar=True,
            neurites=1,
            neurite_length=(20, 90),
            contrast=(0.5, 1.0),
            rim=1.2,
            texture=0.2,
            debris=0.5,
            noise=2.0,
        ),
        "astro": CellAppearance(
            density=1.3,
            crowding=0.4,
            radius=7.6,
            log_radius_std=0.45,
            elongation=(1.0, 2.4),
            processes=(2, 5),
            process_length=(1.8, 5.0),
            polar=False,
            neurites=2,
            neurite_length=(20, 80),
            contrast=(0.3, 0.9),
            rim=1.5,
            texture=0.2,
            debris=0.6,
            noise=1.8,
        ),
        "cort": CellAppearance(
            density=1.2,
            crowding=0.2,
            radius=6.4,
            log_radius_std=0.2,
            elongation=(1.0, 1.5),
            processes=(0, 3),
            process_length=(1.3, 2.2),
            polar=False,
            neurites=5,
            neurite_length=(20, 150),
            contrast=(0.9, 1.6),
            rim=1.2,
            texture=0.16,
            debris=4.0,
            noise=2.2,
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class CellShape:
    """One cell in a patch of its own."""

    mask: npt.NDArray[np.uint8]
    centre: tuple[int, int]
    """Row and column of the body's centre in the patch."""
    tips: list[tuple[Points, float]]
    """Where neurites begin: (x, y) from the centre, and direction in radians."""
    radius: float


def shape_cell(appearance: CellAppearance, rng: np.random.Generator) -> CellShape:
    """A random body and its thick processes, as polygons filled in one patch."""
    radius = float(appearance.radius * np.exp(rng.normal(0, appearance.log_radius_std)))
    length = radius * rng.uniform(*appearance.elongation)
    axis = rng.uniform(0, 2 * np.pi)
    polygons = [_body(radius, length, axis, rng)]
    tips: list[tuple[Points, float]] = []
    count = int(rng.integers(appearance.processes[0], appearance.processes[1] + 1))
    for direction in _directions(count, axis, appearance.polar, rng):
        start = _ellipse_radius(length, radius, direction - axis)
        outline, tip, end = _process(radius, start, direction, appearance.process_length, rng)
        polygons.append(outline)
        tips.append((tip, end))
    free = rng.uniform(0, 2 * np.pi, max(0, appearance.neurites - count))
    tips += [(radius * np.array([np.cos(a), np.sin(a)]), float(a)) for a in free]
    rng.shuffle(tips)
    return _fill(polygons, tips[: appearance.neurites], radius)


def _body(radius: float, length: float, axis: float, rng: np.random.Generator) -> Points:
    """The outline of an ellipse, dented a little: (N, 2) x, y."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    dent = 1 + sum(
        rng.normal(0, 0.16 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        for wave in (2, 3, 4, 5)
    )
    ellipse = np.stack([length * dent * np.cos(angle), radius * dent * np.sin(angle)], 1)
    cos, sin = np.cos(axis), np.sin(axis)
    outline: Points = ellipse @ np.array([[cos, sin], [-sin, cos]])
    return outline


def _directions(count: int, axis: float, polar: bool, rng: np.random.Generator) -> list[float]:
    if polar:
        ends = (axis, axis + np.pi, axis + np.pi / 2)
        return [float(end + rng.normal(0, 0.25)) for end in ends[:count]]
    step = 2 * np.pi / max(count, 1)
    return [float(axis + step * (k + rng.uniform(-0.3, 0.3))) for k in range(count)]


def _ellipse_radius(a: float, b: float, angle: float) -> float:
    """Distance from the centre of an ellipse with half axes a and b to its outline."""
    return float(a * b / np.hypot(b * np.cos(angle), a * np.sin(angle)))


def _process(
    radius: float, start: float, direction: float, length: Range, rng: np.random.Generator
) -> tuple[Points, Points, float]:
    """A bent, tapering process: its outline, its tip and the tip's direction."""
    t = np.linspace(0, 1, 10)
    extent = radius * rng.uniform(*length)
    angles = direction + rng.normal(0, 0.35) * t**2
    along = np.stack([np.cos(angles), np.sin(angles)], 1)
    path = np.cumsum(along, 0) * (extent / len(t)) + 0.55 * start * along[0]
    half_width = 0.6 + (0.8 * radius - 0.6) * (1 - t) ** 1.5
    side = half_width[:, None] * np.stack([-along[:, 1], along[:, 0]], 1)
    return np.concatenate([path + side, (path - side)[::-1]]), path[-1], float(angles[-1])


def _fill(polygons: list[Points], tips: list[tuple[Points, float]], radius: float) -> CellShape:
    cv2 = load_cv2()
    points = np.concatenate(polygons)
    low = np.floor(points.min(0)).astype(int) - 2
    width, height = np.ceil(points.max(0)).astype(int) + 3 - low
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.rint((polygon - low) * _SUBPIXELS).astype(np.int32)], 1, shift=3)
    return CellShape(
        mask=largest_component(mask),
        centre=(int(-low[1]), int(-low[0])),
        tips=tips,
        radius=radius,
    )


def largest_component(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The largest connected component with its holes filled."""
    cv2 = load_cv2()
    outlines: Any = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]
    component = np.zeros(mask.shape, np.uint8)
    if outlines:
        cv2.drawContours(component, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return component
