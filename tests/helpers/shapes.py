"""Cells drawn for the tests of this room."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.int32]


def blobs(rng: np.random.Generator, shape: tuple[int, int] = (64, 72), scale: float = 4) -> Labels:
    """Irregular cells that touch: what is nearest to each of some points, cut by noise."""
    height, width = shape
    points = rng.uniform((0, 0), shape, size=(height * width // 160, 2))
    y, x = np.mgrid[:height, :width]
    distance = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    cells = distance.argmin(axis=-1) + 1
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), scale)
    cells[noise < np.quantile(noise, 0.35)] = 0
    return cells.astype(np.int32)


def disc(shape: tuple[int, int], y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def spiral(turns: int, gap: int = 2, thick: int = 1) -> Labels:
    """One cell wound up: a square spiral, `thick` pixels wide."""
    pitch = gap + thick
    size = 2 * pitch * turns + thick
    image = np.zeros((size, size), dtype=np.int32)
    y = x = size // 2 // pitch * pitch
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    image[y : y + thick, x : x + thick] = 1
    for leg in range(4 * turns):
        dy, dx = steps[leg % 4]
        for _ in range(pitch * (leg // 2 + 1)):
            y, x = y + dy, x + dx
            if not (0 <= y <= size - thick and 0 <= x <= size - thick):
                return image
            image[y : y + thick, x : x + thick] = 1
    return image


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], amplitude: float, scale: float = 4
) -> NDArray[np.float32]:
    """Two fields of Gaussian noise, `scale` pixels smooth, with this standard deviation."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0, scale, scale))
    return (amplitude * noise / noise.std()).astype(np.float32)
