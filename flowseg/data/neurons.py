"""Neurons as a phase-contrast microscope shows them, drawn from random numbers.

Cells, thin processes and debris are laid down as optical thickness. The microscope turns thickness
into contrast and loses its slow part, which gives dark bodies within bright rims (the halo) and a
background that is grey everywhere; grain, shading and noise come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from flowseg.errors import FlowsegError
from flowseg.files import load_cv2
from flowseg.rle import Masks

__all__ = ["LOOKS", "Look", "draw_neurons"]

Points = npt.NDArray[np.float64]
Range = tuple[float, float]

_GREY = 128.0
_TRIES = 12  # places tried for one cell before it is given up
_SHARED = 0.12  # share of its pixels that a cell may share with those before it
_LEAST = 40  # pixels of a cell that must be inside the image
_SUB = 8  # outlines are drawn to 1/8 px


@dataclass(frozen=True)
class Look:
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


LOOKS: Mapping[str, Look] = MappingProxyType(
    {
        "shsy5y": Look(
            density=9.0,
            crowding=0.5,
            radius=4.2,
            spread=0.22,
            elongation=(1.2, 2.4),
            arms=(1, 3),
            reach=(2.0, 5.5),
            polar=True,
            tails=1,
            tail_length=(20, 90),
            contrast=(0.5, 1.0),
            rim=1.2,
            grain=0.2,
            debris=0.5,
            noise=2.0,
        ),
        "astro": Look(
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
        "cort": Look(
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
            grain=0.25,
            debris=4.0,
            noise=2.2,
        ),
    }
)


def draw_neurons(
    shape: tuple[int, int],
    cell_type: str,
    rng: np.random.Generator,
    cells: int | None = None,
) -> tuple[npt.NDArray[np.uint8], Masks]:
    """Draw one image and the masks of its cells.

    Parameters
    ----------
    shape : (int, int)
        Height and width in pixels, at least 32 each.
    cell_type : str
        One of `LOOKS`: `shsy5y` (small, elongated, crowded), `astro` (few, large, branching),
        `cort` (small and round, among fine processes and debris).
    rng : numpy.random.Generator
        The same state gives the same image.
    cells : int, optional
        How many to draw at most, where there is room; by default as dense as the type grows.

    Returns
    -------
    image : ndarray, (H, W) uint8
    masks : Masks
        One connected piece without holes each; neighbours touch and overlap a little.

    Examples
    --------
    >>> image, masks = draw_neurons((64, 64), "cort", np.random.default_rng(0), cells=3)
    >>> image.shape, len(masks)
    ((64, 64), 3)
    """
    if cell_type not in LOOKS:
        raise FlowsegError(
            f"unknown cell type {cell_type!r}", remedy=f"choose from {', '.join(LOOKS)}"
        )
    if min(shape) < 32:
        raise FlowsegError(f"neurons need at least 32 x 32 pixels, not {shape[1]} x {shape[0]}")
    look = LOOKS[cell_type]
    dish = _Dish(shape, look, rng)
    wanted = look.density * shape[0] * shape[1] / 1e4
    dish.grow(max(1, round(wanted * rng.uniform(0.7, 1.3))) if cells is None else cells)
    dish.litter(rng.poisson(look.debris * shape[0] * shape[1] / 1e4))
    return dish.photograph(), dish.masks()


@dataclass(frozen=True)
class _Shape:
    """One cell in a patch of its own."""

    mask: npt.NDArray[np.uint8]
    middle: tuple[int, int]
    """Where the body's centre is in the patch, row and column."""
    tips: list[tuple[Points, float]]
    """Where thin processes may go on: (x, y) from the centre, and heading."""
    radius: float


@dataclass
class _Cell:
    mask: npt.NDArray[np.uint8]
    top: int
    left: int
    middle: tuple[int, int]
    radius: float


class _Dish:
    """What grows in one image."""

    def __init__(self, shape: tuple[int, int], look: Look, rng: np.random.Generator) -> None:
        self.shape = shape
        self.look = look
        self.rng = rng
        self.cells: list[_Cell] = []
        self.taken = np.zeros(shape, np.uint8)
        self.thickness = np.zeros(shape, np.float32)
        self.inside = np.zeros(shape, np.float32)

    def grow(self, count: int) -> None:
        """Set cells one by one, each where it fits."""
        for _ in range(count):
            shape = self._shape_cell()
            for _ in range(_TRIES):
                cell = self._fit(shape, self._place(shape.radius))
                if cell is not None:
                    self._settle(cell, shape)
                    break

    def litter(self, count: int) -> None:
        """Scatter dots that are no cells."""
        for _ in range(count):
            y, x = self._anywhere()
            radius = self.rng.uniform(1.0, 2.4)
            top, left = max(int(y) - 6, 0), max(int(x) - 6, 0)
            rows, columns = np.ogrid[
                top : min(top + 13, self.shape[0]), left : min(left + 13, self.shape[1])
            ]
            far = np.hypot(rows + 0.5 - y, columns + 0.5 - x)
            dot = self.rng.uniform(1.0, 2.2) / (1 + np.exp((far - radius) / 0.35))
            self.thickness[rows, columns] += dot.astype(np.float32)

    def photograph(self) -> npt.NDArray[np.uint8]:
        """The image the camera takes."""
        cv2, look, rng = load_cv2(), self.look, self.rng
        grain = cv2.GaussianBlur(_noise(rng, self.shape), (0, 0), 0.7) * 2.4
        thickness = cv2.GaussianBlur(self.thickness + look.grain * grain * self.inside, (0, 0), 0.6)
        near = cv2.GaussianBlur(thickness, (0, 0), 1.7)
        far = cv2.GaussianBlur(thickness, (0, 0), 6.0)
        edge = near - thickness
        contrast = np.where(edge > 0, 220, 85) * edge + 14 * (far - near)
        noise = cv2.GaussianBlur(_noise(rng, self.shape), (0, 0), 0.6) * 1.9
        image = _GREY + contrast + look.noise * noise + self._shading()
        grey: npt.NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return grey

    def masks(self) -> Masks:
        """All masks as runs."""
        starts, lengths, counts = [], [], [0]
        for cell in self.cells:
            edges = np.diff(np.pad(cell.mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
            rows, first = np.nonzero(edges == 1)
            last = np.nonzero(edges == -1)[1]
            starts.append((rows + cell.top) * self.shape[1] + first + cell.left)
            lengths.append(last - first)
            counts.append(len(rows))
        nothing = np.zeros(0, np.int64)
        return Masks(
            self.shape,
            np.concatenate([nothing, *starts]),
            np.concatenate([nothing, *lengths]),
            np.cumsum(counts, dtype=np.int64),
        )

    def _anywhere(self) -> tuple[float, float]:
        y, x = self.rng.uniform((0, 0), self.shape)
        return float(y), float(x)

    def _place(self, radius: float) -> tuple[int, int]:
        """A place for a cell's centre: beside another cell, or anywhere."""
        y, x = self._anywhere()
        if self.cells and self.rng.random() < self.look.crowding:
            other = self.cells[self.rng.integers(len(self.cells))]
            angle = self.rng.uniform(0, 2 * np.pi)
            apart = (radius + other.radius) * self.rng.uniform(0.9, 1.4)
            y = other.middle[0] + apart * np.sin(angle)
            x = other.middle[1] + apart * np.cos(angle)
        return int(np.clip(y, 0, self.shape[0] - 1)), int(np.clip(x, 0, self.shape[1] - 1))

    def _fit(self, shape: _Shape, centre: tuple[int, int]) -> _Cell | None:
        """The part of a cell inside the image, if it keeps clear of the cells that are there."""
        top, left = centre[0] - shape.middle[0], centre[1] - shape.middle[1]
        bottom = min(top + shape.mask.shape[0], self.shape[0])
        right = min(left + shape.mask.shape[1], self.shape[1])
        up, west = max(top, 0), max(left, 0)
        mask = shape.mask[up - top : bottom - top, west - left : right - left]
        if mask.shape != shape.mask.shape:
            mask = _one_piece(mask)
        area = int(np.count_nonzero(mask))
        shared = int(np.count_nonzero(mask & self.taken[up:bottom, west:right]))
        if area < _LEAST or shared > _SHARED * area:
            return None
        return _Cell(mask, up, west, centre, shape.radius)

    def _settle(self, cell: _Cell, shape: _Shape) -> None:
        cv2, look, rng = load_cv2(), self.look, self.rng
        window = np.s_[
            cell.top : cell.top + cell.mask.shape[0], cell.left : cell.left + cell.mask.shape[1]
        ]
        self.taken[window] |= cell.mask
        depth = cv2.distanceTransform(np.pad(cell.mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        contrast = rng.uniform(*look.contrast)
        body = 1 - np.exp(-depth / look.rim)
        self.thickness[window] += contrast * body
        self.inside[window] = np.maximum(self.inside[window], contrast * body)
        self.cells.append(cell)
        for tip, heading in shape.tips:
            self._draw_tail(tip + np.array(cell.middle[::-1]), heading)

    def _draw_tail(self, tip: Points, heading: float) -> None:
        """A thin, wandering process, as dark as it is thick."""
        cv2, rng = load_cv2(), self.rng
        steps = int(rng.uniform(*self.look.tail_length) / 4)
        turns = heading + np.cumsum(rng.normal(0, 0.09, steps))
        way = np.concatenate(
            [[[0, 0]], 4 * np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1), 0)]
        )
        way += tip
        low = np.floor(way.min(0)).astype(int) - 2
        high = np.ceil(way.max(0)).astype(int) + 3
        left, top = np.clip(low, 0, (self.shape[1], self.shape[0]))
        right, bottom = np.clip(high, 0, (self.shape[1], self.shape[0]))
        if right <= left or bottom <= top:
            return
        layer = np.zeros((bottom - top, right - left), np.uint8)
        points = np.rint((way - (left, top)) * _SUB).astype(np.int32)
        strength = rng.uniform(70, 255)
        for start, end, bead in zip(points, points[1:], rng.uniform(0.4, 1, steps), strict=False):
            grey = int(strength * bead)
            cv2.line(layer, start.tolist(), end.tolist(), grey, 1, cv2.LINE_AA, 3)
        self.thickness[top:bottom, left:right] += layer * np.float32(0.8 / 255)

    def _shading(self) -> npt.NDArray[np.float32]:
        """Light that differs slowly over the image."""
        coarse = self.rng.normal(0, 2.0, (4, 5)).astype(np.float32)
        cv2 = load_cv2()
        shading: npt.NDArray[np.float32] = cv2.resize(
            coarse, self.shape[::-1], interpolation=cv2.INTER_CUBIC
        )
        return shading

    def _shape_cell(self) -> _Shape:
        """A body and its thick processes, as polygons filled in one patch."""
        look, rng = self.look, self.rng
        radius = float(look.radius * np.exp(rng.normal(0, look.spread)))
        long = radius * rng.uniform(*look.elongation)
        axis = rng.uniform(0, 2 * np.pi)
        polygons = [_body(radius, long, axis, rng)]
        tips: list[tuple[Points, float]] = []
        count = int(rng.integers(look.arms[0], look.arms[1] + 1))
        for heading in _headings(count, axis, look.polar, rng):
            outline, tip, end = _arm(radius, long, heading - axis, heading, look.reach, rng)
            polygons.append(outline)
            tips.append((tip, end))
        free = rng.uniform(0, 2 * np.pi, max(0, look.tails - count))
        tips += [(radius * np.array([np.cos(a), np.sin(a)]), float(a)) for a in free]
        rng.shuffle(tips)
        return _fill(polygons, tips[: look.tails], radius)


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32)


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


def _fill(polygons: list[Points], tips: list[tuple[Points, float]], radius: float) -> _Shape:
    cv2 = load_cv2()
    every = np.concatenate(polygons)
    low = np.floor(every.min(0)).astype(int) - 2
    width, height = np.ceil(every.max(0)).astype(int) + 3 - low
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.rint((polygon - low) * _SUB).astype(np.int32)], 1, shift=3)
    return _Shape(_one_piece(mask), (int(-low[1]), int(-low[0])), tips, radius)


def _one_piece(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The largest piece with its holes filled."""
    cv2 = load_cv2()
    outlines: Any = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]
    whole = np.zeros(mask.shape, np.uint8)
    if outlines:
        cv2.drawContours(whole, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return whole
