"""What drawn cells look like: the numbers of each type, and outlines made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from flowseg.io.opencv import load_cv2

__all__ = [
    "APPEARANCES",
    "CellAppearance",
    "CellShape",
    "Points",
    "largest_component",
    "shape_cell",
]

Points = npt.NDArray[np.float64]
Range = tuple[float, float]

_SUB = 8  # outlines are drawn to 1/8 px


@dataclass(frozen=True)
class CellAppearance:
    """What the cells of one type look like. Lengths in pixels, densities per 10,000 pixels."""

    density: float
    """Cells."""
    crowding: float
    """Share of the cells that are set beside another one."""
    radius: float
    """Median half width of the cell body."""
    spread: float
    """Standard deviation of the logarithm of that."""
    elongation: Range
    """Length of the body over its width."""
    arms: tuple[int, int]
    """Number of thick processes; they belong to the cell."""
    reach: Range
    """Their length over the body's half width."""
    polar: bool
    """Whether they leave at the body's two ends rather than all around."""
    tails: int
    """At most so many thin processes a cell; they are drawn but belong to no cell."""
    tail_length: Range
    contrast: Range
    rim: float
    """Width over which the body becomes thick; a thin, flat cell shows its rim alone."""
    grain: float
    """Strength of the structure within the cell."""
    debris: float
    """Small bright-rimmed dots that are no cells."""
    noise: float


APPEARANCES: Mapping[str, CellAppearance] = MappingProxyType(
    {
        "shsy5y": CellAppearance(
            density=7.5,
            crowding=0.4,
            radius=4.9,
            spread=0.22,
            elongation=(1.2, 2.4),
            arms=(1, 3),
            reach=(1.4, 3.6),
            polar=True,
            tails=1,
            tail_length=(20, 90),
            contrast=(0.5, 1.0),
            rim=1.2,
            grain=0.2,
            debris=0.5,
            noise=2.0,
        ),
        "astro": CellAppearance(
            density=1.3,
            crowding=0.4,
            radius=7.6,
            spread=0.45,
            elongation=(1.0, 2.4),
            arms=(2, 5),
            reach=(1.8, 5.0),
            polar=False,
            tails=2,
            tail_length=(20, 80),
            contrast=(0.3, 0.9),
            rim=1.5,
            grain=0.2,
            debris=0.6,
            noise=1.8,
        ),
        "cort": CellAppearance(
            density=1.2,
            crowding=0.2,
            radius=6.4,
            spread=0.2,
            elongation=(1.0, 1.5),
            arms=(0, 3),
            reach=(1.3, 2.2),
            polar=False,
            tails=5,
            tail_length=(20, 150),
            contrast=(0.9, 1.6),
            rim=1.2,
            grain=0.16,
            debris=4.0,
            noise=2.2,
        ),
    }
)


@dataclass(frozen=True)
class CellShape:
    """One cell in a patch of its own."""

    mask: npt.NDArray[np.uint8]
    middle: tuple[int, int]
    """Where the body's centre is in the patch, row and column."""
    tips: list[tuple[Points, float]]
    """Where thin processes may go on: (x, y) from the centre, and heading."""
    radius: float


def shape_cell(appearance: CellAppearance, rng: np.random.Generator) -> CellShape:
    """A body and its thick processes, as polygons filled in one patch."""
    radius = float(appearance.radius * np.exp(rng.normal(0, appearance.spread)))
    long = radius * rng.uniform(*appearance.elongation)
    axis = rng.uniform(0, 2 * np.pi)
    polygons = [_body(radius, long, axis, rng)]
    tips: list[tuple[Points, float]] = []
    count = int(rng.integers(appearance.arms[0], appearance.arms[1] + 1))
    for heading in _headings(count, axis, appearance.polar, rng):
        outline, tip, end = _arm(radius, long, heading - axis, heading, appearance.reach, rng)
        polygons.append(outline)
        tips.append((tip, end))
    free = rng.uniform(0, 2 * np.pi, max(0, appearance.tails - count))
    tips += [(radius * np.array([np.cos(a), np.sin(a)]), float(a)) for a in free]
    rng.shuffle(tips)
    return _fill(polygons, tips[: appearance.tails], radius)


def _body(radius: float, long: float, axis: float, rng: np.random.Generator) -> Points:
    """An ellipse whose outline is dented a little: (N, 2) x, y."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    dent = 1 + sum(
        rng.normal(0, 0.16 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        for wave in (2, 3, 4, 5)
    )
    return _turn(np.stack([long * dent * np.cos(angle), radius * dent * np.sin(angle)], 1), axis)


def _headings(count: int, axis: float, polar: bool, rng: np.random.Generator) -> list[float]:
    if polar:
        ends = (axis, axis + np.pi, axis + np.pi / 2)
        return [float(end + rng.normal(0, 0.25)) for end in ends[:count]]
    step = 2 * np.pi / max(count, 1)
    return [float(axis + step * (k + rng.uniform(-0.3, 0.3))) for k in range(count)]


def _arm(
    radius: float,
    long: float,
    at: float,
    heading: float,
    reach: Range,
    rng: np.random.Generator,
) -> tuple[Points, Points, float]:
    """A bent, tapering process: its outline, its tip and where it points."""
    room = long * radius / np.hypot(radius * np.cos(at), long * np.sin(at))  # ellipse at that angle
    t = np.linspace(0, 1, 10)
    length = radius * rng.uniform(*reach)
    turns = heading + rng.normal(0, 0.35) * t**2
    along = np.stack([np.cos(turns), np.sin(turns)], 1)
    way = np.cumsum(along, 0) * (length / len(t)) + 0.55 * room * along[0]
    half = 0.6 + (0.8 * radius - 0.6) * (1 - t) ** 1.5
    side = half[:, None] * np.stack([-along[:, 1], along[:, 0]], 1)
    return np.concatenate([way + side, (way - side)[::-1]]), way[-1], float(turns[-1])


def _turn(points: Points, angle: float) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _fill(polygons: list[Points], tips: list[tuple[Points, float]], radius: float) -> CellShape:
    cv2 = load_cv2()
    every = np.concatenate(polygons)
    low = np.floor(every.min(0)).astype(int) - 2
    width, height = np.ceil(every.max(0)).astype(int) + 3 - low
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.rint((polygon - low) * _SUB).astype(np.int32)], 1, shift=3)
    return CellShape(largest_component(mask), (int(-low[1]), int(-low[0])), tips, radius)


def largest_component(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The largest piece with its holes filled."""
    cv2 = load_cv2()
    outlines: Any = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]
    whole = np.zeros(mask.shape, np.uint8)
    if outlines:
        cv2.drawContours(whole, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return whole
