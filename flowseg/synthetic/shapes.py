"""Random cells: outlines of bodies and processes, filled in patches of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flowseg.io.opencv import load_cv2
from flowseg.synthetic.appearance import CellForm

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.uint8]

SUBPIXELS = 8
"""Outlines are drawn to this part of a pixel."""

_CORNERS = 40
_WAVES = np.arange(2, 8)
_ANGLES = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
_STEPS = np.linspace(0, 1, 9)


@dataclass(frozen=True, kw_only=True)
class CellShape:
    """One cell in a patch of its own."""

    mask: Mask
    centre: tuple[int, int]
    """Row and column of the body's centre in the patch."""
    tips: list[tuple[Points, float]]
    """Where neurites begin: (x, y) from the centre, and direction in radians."""
    form: CellForm
    diameter: float
    """Of a disc of the mask's area."""


def shape_cell(form: CellForm, diameter: float, axis: float, rng: np.random.Generator) -> CellShape:
    """A random body along `axis` (radians) and its thick processes, filled in one patch."""
    elongation = rng.uniform(*form.elongation)
    length, width = np.sqrt(elongation) / 2, 1 / np.sqrt(elongation) / 2  # half axes
    polygons = [_body(form, length, width, axis, rng)]
    tips: list[tuple[Points, float]] = []
    count = int(rng.integers(form.processes[0], form.processes[1] + 1))
    for direction in _directions(count, axis, form.polar, rng):
        start = 0.6 * _ellipse_radius(length, width, direction - axis)
        origin = start * np.array([np.cos(direction), np.sin(direction)])
        half = width * rng.uniform(*form.process_width)
        outline, path, end = _process(origin, direction, half, form.process_length, rng)
        polygons.append(outline)
        tips.append((path[-1], end))
        if rng.random() < form.branching:
            fork = end + rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
            shorter = (0.5 * form.process_length[0], 0.6 * form.process_length[1])
            outline, path, end = _process(path[4], fork, 0.5 * half, shorter, rng)
            polygons.append(outline)
            tips.append((path[-1], end))
    free = rng.uniform(0, 2 * np.pi, max(0, form.neurites - len(tips)))
    tips += [(width * np.array([np.cos(a), np.sin(a)]), float(a)) for a in free]
    order = rng.permutation(len(tips))[: form.neurites]
    area = int(np.count_nonzero(_fill(polygons, diameter)[0]))
    scale = diameter * float(np.sqrt(np.pi / 4 * diameter**2 / max(area, 1)))
    mask, low = _fill(polygons, scale)
    return CellShape(
        mask=mask,
        centre=(-low[1], -low[0]),
        tips=[(scale * tips[k][0], tips[k][1]) for k in order],
        form=form,
        diameter=diameter,
    )


def _body(
    form: CellForm, length: float, width: float, axis: float, rng: np.random.Generator
) -> Points:
    """The outline of an ellipse, dented and bent: (N, 2) x, y."""
    waves = rng.normal(0, 1, _WAVES.size) / _WAVES**0.7
    phases = rng.uniform(0, 2 * np.pi, (_WAVES.size, 1))
    dent = np.exp(form.raggedness * (waves @ np.cos(_WAVES[:, None] * _ANGLES + phases)))
    x, y = length * dent * np.cos(_ANGLES), width * dent * np.sin(_ANGLES)
    if form.bend > 0:
        y = y + rng.normal(0, form.bend) * (x**2 - length**2 / 3)
    cos, sin = np.cos(axis), np.sin(axis)
    return np.stack([cos * x - sin * y, sin * x + cos * y], 1)


def _directions(count: int, axis: float, polar: bool, rng: np.random.Generator) -> list[float]:
    if polar:
        return [axis + (k % 2) * np.pi + rng.normal(0, 0.25 + 0.3 * (k > 1)) for k in range(count)]
    step = 2 * np.pi / max(count, 1)
    return [axis + step * (k + rng.uniform(-0.3, 0.3)) for k in range(count)]


def _ellipse_radius(a: float, b: float, angle: float) -> float:
    """Distance from the centre of an ellipse with half axes a and b to its outline."""
    return float(a * b / np.hypot(b * np.cos(angle), a * np.sin(angle)))


def _process(
    origin: Points,
    direction: float,
    half: float,
    length: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Points, Points, float]:
    """A bent, tapering process: its outline, its path and the direction of its tip."""
    extent = rng.uniform(*length)
    angles = direction + rng.normal(0, 0.4) * _STEPS**2 + rng.normal(0, 0.08, _STEPS.size)
    along = np.stack([np.cos(angles), np.sin(angles)], 1)
    path = origin + np.cumsum(along, 0) * (extent / _STEPS.size)
    tip = rng.uniform(0.02, 0.05)
    half_width = tip + max(half - tip, 0) * (1 - _STEPS) ** rng.uniform(0.8, 2)
    side = half_width[:, None] * np.stack([-along[:, 1], along[:, 0]], 1)
    return np.concatenate([path + side, (path - side)[::-1]]), path, float(angles[-1])


def _fill(polygons: list[Points], scale: float) -> tuple[Mask, tuple[int, int]]:
    """The polygons, enlarged, in one patch, and the column and row where it begins."""
    cv2 = load_cv2()
    points = np.concatenate(polygons)
    left, top = (int(v) for v in np.floor(scale * points.min(0)) - 2)
    right, bottom = (int(v) for v in np.ceil(scale * points.max(0)) + 3)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    for polygon in polygons:
        corners = np.rint((scale * polygon - (left, top)) * SUBPIXELS).astype(np.int32)
        cv2.fillPoly(mask, [corners], 1, shift=3)
    return largest_component(mask), (left, top)


def largest_component(mask: Mask) -> Mask:
    """The largest connected component with its holes filled."""
    cv2 = load_cv2()
    outlines: Any = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]
    component = np.zeros(mask.shape, np.uint8)
    if outlines:
        largest = max(outlines, key=cv2.contourArea) if len(outlines) > 1 else outlines[0]
        cv2.drawContours(component, [largest], -1, 1, cv2.FILLED)
    return component
