"""Scenes of drawn cells: placed one by one as optical thickness, photographed, and their masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.io.opencv import load_cv2
from flowseg.synthetic.appearance import APPEARANCES, Appearance
from flowseg.synthetic.optics import photograph
from flowseg.synthetic.shapes import (
    SUBPIXELS,
    CellShape,
    Mask,
    Points,
    largest_component,
    shape_cell,
)

_ATTEMPTS = 10  # positions tried for one cell before it is given up
_MAX_OVERLAP_PIXELS = 60  # of a cell with those before it, lest a large cell hide a small one
_FITTED_SHARE = 0.55  # of a cell that must be left where it is cut to the room there is
_MIN_AREA = 0.15  # of a cell that must be inside the image
_MIN_PIXELS = 25
_RIDGE = 1.5  # pixels

Image = npt.NDArray[np.uint8]


def draw_neurons(
    shape: tuple[int, int], cell_type: str, rng: np.random.Generator, cells: int | None = None
) -> tuple[Image, Masks]:
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
    scene = Scene(shape, APPEARANCES[cell_type], rng, cells)
    return scene.image(), scene.masks()


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A cell's mask from (top, left) of the image, and the centre of its body."""

    mask: Mask
    top: int
    left: int
    centre: tuple[int, int]
    diameter: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the mask in the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class Scene:
    """Cells, neurites and debris of one image (H, W), as a map of optical thickness.

    As many cells as cover the share of the image that the appearance says, more or less, or at most
    `cells`.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        appearance: Appearance,
        rng: np.random.Generator,
        cells: int | None = None,
    ) -> None:
        self._shape = shape
        self._appearance = appearance
        self._rng = rng
        self._cells: list[_Cell] = []
        self._occupied = np.zeros(shape, np.uint8)
        self._phase = np.zeros(shape, np.float32)
        self._texture = _texture(shape, appearance.texture_scale, rng)
        squares = shape[0] * shape[1] / appearance.diameter**2
        if cells is None:
            expected = appearance.coverage * squares * 4 / np.pi
            cells = max(1, round(expected * rng.uniform(0.7, 1.3)))
        self._add_cells(cells)
        for _ in range(rng.poisson(appearance.fibres * squares / 100)):
            self._draw_neurite(np.array(self._random_point()[::-1]), rng.uniform(0, 2 * np.pi))
        for _ in range(rng.poisson(appearance.debris * squares / 100)):
            self._draw_dot(self._random_point())
        for _ in range(rng.poisson(appearance.clumps * len(self._cells))):
            self._draw_clump()

    def image(self) -> Image:
        """The phase-contrast image."""
        return photograph(self._phase, self._appearance.optics, self._rng)

    def masks(self) -> Masks:
        """All masks as an annotator would draw them, overlaps kept."""
        masks = []
        for cell in self._cells:
            mask = np.zeros(self._shape, np.bool_)
            window, outline = self._annotated(cell)
            mask[window] = outline
            masks.append(Masks.from_dense([mask]))
        return Masks.concatenate(masks, self._shape)

    def labels(self) -> npt.NDArray[np.int32]:
        """Labels (H, W) of the same masks; a cell keeps its pixels where a later one overlaps."""
        labels = np.zeros(self._shape, np.int32)
        for number, cell in enumerate(self._cells, 1):
            window, outline = self._annotated(cell)
            part = labels[window]
            part[(outline > 0) & (part == 0)] = number
        return labels

    def _add_cells(self, count: int) -> None:
        """Place cells one by one, each where it fits."""
        appearance, rng = self._appearance, self._rng
        weights = [weight for weight, _ in appearance.forms]
        kinds = rng.choice(len(weights), count, p=weights)
        sizes = appearance.diameter * np.exp(rng.normal(0, appearance.log_diameter_std, count))
        direction = rng.uniform(0, np.pi)
        for kind, size in zip(kinds, sizes.tolist(), strict=True):
            # Hardly any alignment leaves them turned by a right angle and more.
            spread = np.pi * (1 - appearance.alignment)
            axis = direction + rng.uniform(-1, 1) * spread
            shape = shape_cell(appearance.forms[kind][1], size, axis, rng)
            for _ in range(_ATTEMPTS):
                cell = self._fit(shape, self._propose_centre(shape.diameter))
                if cell is not None:
                    self._draw_cell(cell, shape)
                    break

    def _random_point(self) -> tuple[float, float]:
        y, x = self._rng.uniform((0, 0), self._shape)
        return float(y), float(x)

    def _propose_centre(self, diameter: float) -> tuple[int, int]:
        """A random centre for a cell: next to another cell, or anywhere."""
        rng = self._rng
        y, x = self._random_point()
        if self._cells and rng.random() < self._appearance.crowding:
            other = self._cells[rng.integers(len(self._cells))]
            angle = rng.uniform(0, 2 * np.pi)
            distance = (diameter + other.diameter) / 2 * rng.uniform(0.8, 1.4)
            y = other.centre[0] + distance * np.sin(angle)
            x = other.centre[1] + distance * np.cos(angle)
        height, width = self._shape
        return min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)

    def _fit(self, shape: CellShape, centre: tuple[int, int]) -> _Cell | None:
        """The part of a cell inside the image, unless it overlaps the others too much."""
        appearance = self._appearance
        y, x = centre[0] - shape.centre[0], centre[1] - shape.centre[1]  # of the patch
        bottom = min(y + shape.mask.shape[0], self._shape[0])
        right = min(x + shape.mask.shape[1], self._shape[1])
        top, left = max(y, 0), max(x, 0)
        mask = shape.mask[top - y : bottom - y, left - x : right - x]
        if mask.shape != shape.mask.shape:
            mask = largest_component(mask)
        others = self._occupied[top:bottom, left:right]
        area = int(np.count_nonzero(mask))
        overlap = int(np.count_nonzero(mask & others))
        if overlap > min(appearance.overlap * area, _MAX_OVERLAP_PIXELS):
            if not appearance.fitted or overlap > (1 - _FITTED_SHARE) * area:
                return None
            mask = largest_component(mask & (1 - others))
            if np.count_nonzero(mask) < _FITTED_SHARE * area:
                return None
            area = int(np.count_nonzero(mask))
        if area < max(_MIN_PIXELS, _MIN_AREA * np.pi / 4 * shape.diameter**2):
            return None
        return _Cell(mask=mask, top=top, left=left, centre=centre, diameter=shape.diameter)

    def _draw_cell(self, cell: _Cell, shape: CellShape) -> None:
        rng, form = self._rng, shape.form
        window = cell.window
        self._occupied[window] |= cell.mask
        depth = _depth(cell.mask)
        deepest = float(depth.max())
        thickness = rng.uniform(*form.thickness)
        slope = np.minimum(depth / max(1.0, rng.uniform(*form.rise) * deepest), 1)
        phase = np.float32(thickness) * np.sqrt(slope * (2 - slope))
        ridge = rng.uniform(*form.ridge)
        if ridge > 0:
            phase += np.float32(ridge) * (slope > 0) * np.exp(-((depth / _RIDGE - 1) ** 2))
        nucleus = rng.uniform(*form.nucleus)
        if nucleus > 0:
            phase += np.float32(nucleus) * _nucleus(depth, deepest, rng)
        phase *= 1 + np.float32(rng.uniform(*form.texture)) * self._texture[window]
        self._phase[window] += phase
        self._cells.append(cell)
        for tip, direction in shape.tips:
            self._draw_neurite(tip + np.array(cell.centre[::-1]), direction)

    def _annotated(self, cell: _Cell) -> tuple[tuple[slice, slice], Mask]:
        """A cell's mask as an annotator would draw it, and its rows and columns in the image."""
        cv2, appearance = load_cv2(), self._appearance
        reach = round(appearance.outline)
        cut = appearance.cut_processes
        if cut > 0:
            cut *= float(_depth(cell.mask).max())
        if reach == 0 and cut < 1 and not appearance.smooth:
            return cell.window, cell.mask
        margin = max(reach, 0) + 2
        mask = np.pad(cell.mask, margin)
        if cut >= 1:
            mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(round(cut)))
        if reach:
            change = cv2.dilate if reach > 0 else cv2.erode
            mask = change(mask, _disc(abs(reach)))
        if appearance.smooth:
            mask = cv2.medianBlur(mask, 5)
        top, left = cell.top - margin, cell.left - margin
        y, x = max(0, -top), max(0, -left)
        mask = mask[y : self._shape[0] - top, x : self._shape[1] - left]
        mask = largest_component(mask)
        if np.count_nonzero(mask) < _MIN_PIXELS:
            return cell.window, cell.mask
        height, width = mask.shape
        return (slice(top + y, top + y + height), slice(left + x, left + x + width)), mask

    def _draw_neurite(self, tip: Points, direction: float) -> None:
        """A thin process that starts at (x, y), bends at random, and may be beaded."""
        cv2, appearance, rng = load_cv2(), self._appearance, self._rng
        step = 4.0
        steps = int(rng.uniform(*appearance.neurite_length) * appearance.diameter / step)
        if steps < 1:
            return
        angles = direction + np.cumsum(rng.normal(0, 0.09, steps))
        path = np.concatenate(
            [[[0, 0]], step * np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1), 0)]
        )
        path += tip
        low = np.floor(path.min(0)).astype(int) - 3
        high = np.ceil(path.max(0)).astype(int) + 4
        left, top = (int(v) for v in np.clip(low, 0, self._shape[::-1]))
        right, bottom = (int(v) for v in np.clip(high, 0, self._shape[::-1]))
        if right <= left or bottom <= top:
            return
        layer = np.zeros((bottom - top, right - left), np.uint8)
        points = np.rint((path - (left, top)) * SUBPIXELS).astype(np.int32)
        width = 1 + int(rng.random() < 0.25)
        cv2.polylines(layer, [points], False, 150, width, cv2.LINE_AA, 3)
        if rng.random() < 0.4:
            for point in points[rng.random(len(points)) < 0.25].tolist():
                cv2.circle(layer, point, SUBPIXELS * width // 2 + 4, 255, -1, cv2.LINE_AA, 3)
        strength = rng.uniform(*appearance.neurite_thickness)
        self._phase[top:bottom, left:right] += layer * np.float32(strength / 150)

    def _draw_dot(self, point: tuple[float, float]) -> None:
        """A small bright-rimmed dot that is no cell."""
        rng = self._rng
        radius = self._appearance.debris_radius * self._appearance.diameter
        radius = float(max(0.7, radius * rng.lognormal(0, 0.4)))
        reach = int(radius + 4)
        top, left = max(int(point[0]) - reach, 0), max(int(point[1]) - reach, 0)
        bottom, right = top + 2 * reach + 1, left + 2 * reach + 1
        part = self._phase[top:bottom, left:right]
        rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        distance = np.hypot(rows + 0.5 - point[0], columns + 0.5 - point[1])
        strength = rng.uniform(*self._appearance.debris_thickness)
        part += (strength / (1 + np.exp((distance - radius) / 0.35))).astype(np.float32)

    def _draw_clump(self) -> None:
        """A heap of dots beside a cell."""
        rng = self._rng
        cell = self._cells[rng.integers(len(self._cells))]
        angle = rng.uniform(0, 2 * np.pi)
        middle = np.array(cell.centre) + 0.5 * cell.diameter * np.array(
            [np.sin(angle), np.cos(angle)]
        )
        for y, x in rng.normal(middle, 0.2 * cell.diameter, (rng.integers(3, 12), 2)):
            if 0 <= y < self._shape[0] and 0 <= x < self._shape[1]:
                self._draw_dot((float(y), float(x)))


def _texture(
    shape: tuple[int, int], scale: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Noise of unit variance, fine and coarse."""
    cv2 = load_cv2()
    fine = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), scale)
    small = (max(1, shape[0] // 4), max(1, shape[1] // 4))
    coarse = cv2.resize(rng.standard_normal(small, np.float32), shape[::-1])
    texture: npt.NDArray[np.float32] = fine * np.float32(2.8 * scale) + 0.6 * coarse
    return texture


def _depth(mask: Mask) -> npt.NDArray[np.float32]:
    """The distance of a cell's pixels from its outline."""
    cv2 = load_cv2()
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth: npt.NDArray[np.float32] = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return depth


def _nucleus(
    depth: npt.NDArray[np.float32], deepest: float, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """A nucleus of thickness 1 with nucleoli, where the cell is deepest."""
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    radius = deepest * rng.uniform(0.45, 0.8)
    rows, columns = np.ogrid[: depth.shape[0], : depth.shape[1]]
    distance = np.hypot(rows - y, columns - x)
    nucleus = (1 / (1 + np.exp((distance - radius) / 0.7))).astype(np.float32)
    for _ in range(rng.integers(0, 4)):
        dy, dx = rng.normal(0, 0.35 * radius, 2)
        spot = np.hypot(rows - y - dy, columns - x - dx)
        nucleus += 0.8 * np.exp(-((spot / max(0.8, 0.15 * radius)) ** 2)).astype(np.float32)
    return nucleus * (depth > 0)


def _disc(radius: int) -> Mask:
    disc: Mask = load_cv2().getStructuringElement(
        load_cv2().MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)
    )
    return disc
