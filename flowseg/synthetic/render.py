"""Neurons as a phase-contrast microscope shows them, drawn from random numbers.

Cells, neurites and debris are drawn as optical thickness. Phase contrast suppresses its low spatial
frequencies, which gives dark bodies within bright rims (the halo) and a background that is grey
everywhere; texture, uneven illumination and noise are added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.io.opencv import load_cv2
from flowseg.synthetic.appearance import (
    APPEARANCES,
    CellAppearance,
    CellShape,
    Points,
    largest_component,
    shape_cell,
)

_GREY = 128.0
_ATTEMPTS = 12  # positions tried for one cell before it is given up
_MAX_OVERLAP = 0.12  # share of its pixels that a cell may have in common with those before it
_MAX_OVERLAP_PIXELS = 60  # and how many, lest a large cell hide a small one
_MIN_AREA = 40  # pixels of a cell that must be inside the image
_SUBPIXELS = 8  # outlines are drawn to 1/8 px


def draw_neurons(
    shape: tuple[int, int],
    cell_type: str,
    rng: np.random.Generator,
    cells: int | None = None,
) -> tuple[npt.NDArray[np.uint8], Masks]:
    """Draw one (H, W) uint8 image, 32 x 32 at least, and the masks of its cells.

    `shsy5y` are small, elongated, crowded; `astro` few, large, branching; `cort` small and round,
    among fine processes and debris. At most `cells` are drawn, where there is room; by default as
    dense as the type grows. A mask is one connected component without holes; neighbours touch and
    overlap a little.

    Examples
    --------
    >>> image, masks = draw_neurons((64, 64), "cort", np.random.default_rng(0), cells=3)
    >>> image.shape, len(masks)
    ((64, 64), 3)
    """
    if cell_type not in APPEARANCES:
        raise FlowsegError(
            f"unknown cell type {cell_type!r}", remedy=f"choose from {', '.join(APPEARANCES)}"
        )
    if min(shape) < 32:
        raise FlowsegError(f"neurons need at least 32 x 32 pixels, not {shape[1]} x {shape[0]}")
    appearance = APPEARANCES[cell_type]
    scene = _Scene(shape, appearance, rng)
    expected = appearance.density * shape[0] * shape[1] / 1e4
    scene.add_cells(max(1, round(expected * rng.uniform(0.7, 1.3))) if cells is None else cells)
    scene.add_debris(rng.poisson(appearance.debris * shape[0] * shape[1] / 1e4))
    return scene.render(), scene.masks()


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A cell's mask from (top, left) of the image, and the centre of its body."""

    mask: npt.NDArray[np.uint8]
    top: int
    left: int
    centre: tuple[int, int]
    radius: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the mask in the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class _Scene:
    """Cells, neurites and debris of one image, as maps of optical thickness."""

    def __init__(
        self, shape: tuple[int, int], appearance: CellAppearance, rng: np.random.Generator
    ) -> None:
        self.shape = shape
        self.appearance = appearance
        self.rng = rng
        self.cells: list[_Cell] = []
        self.occupied = np.zeros(shape, np.uint8)
        self.thickness = np.zeros(shape, np.float32)
        self.bodies = np.zeros(shape, np.float32)

    def add_cells(self, count: int) -> None:
        """Place cells one by one, each where it fits."""
        for _ in range(count):
            shape = shape_cell(self.appearance, self.rng)
            for _ in range(_ATTEMPTS):
                cell = self._fit(shape, self._propose_centre(shape.radius))
                if cell is not None:
                    self._draw_cell(cell, shape)
                    break

    def add_debris(self, count: int) -> None:
        """Scatter dots that are no cells."""
        for _ in range(count):
            y, x = self._random_point()
            radius = self.rng.uniform(1.0, 2.4)
            top, left = max(int(y) - 6, 0), max(int(x) - 6, 0)
            rows, columns = np.ogrid[
                top : min(top + 13, self.shape[0]), left : min(left + 13, self.shape[1])
            ]
            distance = np.hypot(rows + 0.5 - y, columns + 0.5 - x)
            dot = self.rng.uniform(1.0, 2.2) / (1 + np.exp((distance - radius) / 0.35))
            self.thickness[rows, columns] += dot.astype(np.float32)

    def render(self) -> npt.NDArray[np.uint8]:
        """The phase-contrast image."""
        cv2, appearance, rng = load_cv2(), self.appearance, self.rng
        texture = cv2.GaussianBlur(_noise(rng, self.shape), (0, 0), 0.7) * 2.4
        thickness = cv2.GaussianBlur(
            self.thickness + appearance.texture * texture * self.bodies, (0, 0), 0.6
        )
        fine = cv2.GaussianBlur(thickness, (0, 0), 1.7)
        coarse = cv2.GaussianBlur(thickness, (0, 0), 6.0)
        edge = fine - thickness
        contrast = np.where(edge > 0, 220, 85) * edge + 14 * (coarse - fine)
        noise = cv2.GaussianBlur(_noise(rng, self.shape), (0, 0), 0.6) * 1.9
        image = _GREY + contrast + appearance.noise * noise + self._illumination()
        grey: npt.NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return grey

    def masks(self) -> Masks:
        """All masks, overlaps kept."""
        masks = []
        for cell in self.cells:
            mask = np.zeros(self.shape, np.bool_)
            mask[cell.window] = cell.mask
            masks.append(Masks.from_dense([mask]))
        return Masks.concatenate(masks, self.shape)

    def _random_point(self) -> tuple[float, float]:
        y, x = self.rng.uniform((0, 0), self.shape)
        return float(y), float(x)

    def _propose_centre(self, radius: float) -> tuple[int, int]:
        """A random centre for a cell: next to another cell, or anywhere."""
        y, x = self._random_point()
        if self.cells and self.rng.random() < self.appearance.crowding:
            other = self.cells[self.rng.integers(len(self.cells))]
            angle = self.rng.uniform(0, 2 * np.pi)
            distance = (radius + other.radius) * self.rng.uniform(0.9, 1.4)
            y = other.centre[0] + distance * np.sin(angle)
            x = other.centre[1] + distance * np.cos(angle)
        return int(np.clip(y, 0, self.shape[0] - 1)), int(np.clip(x, 0, self.shape[1] - 1))

    def _fit(self, shape: CellShape, centre: tuple[int, int]) -> _Cell | None:
        """The part of a cell inside the image, unless it overlaps the others too much."""
        y, x = centre[0] - shape.centre[0], centre[1] - shape.centre[1]  # of the patch
        bottom = min(y + shape.mask.shape[0], self.shape[0])
        right = min(x + shape.mask.shape[1], self.shape[1])
        top, left = max(y, 0), max(x, 0)
        mask = shape.mask[top - y : bottom - y, left - x : right - x]
        if mask.shape != shape.mask.shape:
            mask = largest_component(mask)
        area = int(np.count_nonzero(mask))
        overlap = int(np.count_nonzero(mask & self.occupied[top:bottom, left:right]))
        if area < _MIN_AREA or overlap > min(_MAX_OVERLAP * area, _MAX_OVERLAP_PIXELS):
            return None
        return _Cell(mask=mask, top=top, left=left, centre=centre, radius=shape.radius)

    def _draw_cell(self, cell: _Cell, shape: CellShape) -> None:
        cv2, appearance, rng = load_cv2(), self.appearance, self.rng
        window = cell.window
        self.occupied[window] |= cell.mask
        depth = cv2.distanceTransform(np.pad(cell.mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        contrast = rng.uniform(*appearance.contrast)
        body = 1 - np.exp(-depth / appearance.rim)
        self.thickness[window] += contrast * body
        self.bodies[window] = np.maximum(self.bodies[window], contrast * body)
        self.cells.append(cell)
        for tip, direction in shape.tips:
            self._draw_neurite(tip + np.array(cell.centre[::-1]), direction)

    def _draw_neurite(self, tip: Points, direction: float) -> None:
        """A thin process that starts at (x, y) and bends at random."""
        cv2, rng = load_cv2(), self.rng
        steps = int(rng.uniform(*self.appearance.neurite_length) / 4)
        angles = direction + np.cumsum(rng.normal(0, 0.09, steps))
        path = np.concatenate(
            [[[0, 0]], 4 * np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1), 0)]
        )
        path += tip
        low = np.floor(path.min(0)).astype(int) - 2
        high = np.ceil(path.max(0)).astype(int) + 3
        left, top = np.clip(low, 0, (self.shape[1], self.shape[0]))
        right, bottom = np.clip(high, 0, (self.shape[1], self.shape[0]))
        if right <= left or bottom <= top:
            return
        layer = np.zeros((bottom - top, right - left), np.uint8)
        points = np.rint((path - (left, top)) * _SUBPIXELS).astype(np.int32)
        strength = rng.uniform(70, 255)
        for start, end, bead in zip(points, points[1:], rng.uniform(0.4, 1, steps), strict=False):
            grey = int(strength * bead)
            cv2.line(layer, start.tolist(), end.tolist(), grey, 1, cv2.LINE_AA, 3)
        self.thickness[top:bottom, left:right] += layer * np.float32(0.8 / 255)

    def _illumination(self) -> npt.NDArray[np.float32]:
        """Illumination that varies slowly over the image."""
        coarse = self.rng.normal(0, 2.0, (4, 5)).astype(np.float32)
        cv2 = load_cv2()
        illumination: npt.NDArray[np.float32] = cv2.resize(
            coarse, self.shape[::-1], interpolation=cv2.INTER_CUBIC
        )
        return illumination


def _noise(rng: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32)
