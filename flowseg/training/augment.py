"""Data augmentation of crops: image and labels together; flows are computed afterwards."""

from __future__ import annotations

from typing import NamedTuple

import fastremap
import numpy as np
from numpy.typing import NDArray

from flowseg.config.schema import AugmentConfig
from flowseg.io.opencv import load_cv2

Labelled = tuple[NDArray[np.float32], NDArray[np.int32]]
"""An image and its labels; those of a crop reach a margin beyond it on each side."""


class Geometry(NamedTuple):
    """Where a square crop lies in an image."""

    turn: NDArray[np.float64]
    """(2, 2), orthogonal: a direction (x, y) in the crop to that in the image."""
    scale: float
    """Pixels of the crop for one of the image."""
    centre: tuple[float, float]
    """Of the crop, in the image: (x, y)."""

    def warp(
        self, source: NDArray[np.generic], edge: int, fill: float, *, linear: bool = True
    ) -> NDArray[np.generic]:
        """The crop of one plane (H, W), with `edge` pixels, and `fill` outside the image."""
        cv2 = load_cv2()
        middle = (edge - 1) / 2
        turn = self.turn / self.scale
        matrix = np.column_stack((turn, np.array(self.centre) - turn @ (middle, middle)))
        method = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST
        warped: NDArray[np.generic] = cv2.warpAffine(
            source,
            matrix,
            (edge, edge),
            flags=method | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        return warped

    def rotate(self, flows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Warped vectors (2, S, S), order (dy, dx), which point as in the image, as in the crop."""
        turn = self.turn[::-1, ::-1].astype(np.float32)  # of (y, x)
        turned: NDArray[np.float32] = np.einsum("ji,jyx->iyx", turn, flows)
        return turned


def draw_geometry(
    shape: tuple[int, int], zoom: float, config: AugmentConfig, rng: np.random.Generator
) -> Geometry:
    """A random position, rotation, scale and flip of a crop of an image of that shape.

    `zoom` is the number of pixels of the crop for one pixel of the image, before the random scale.
    """
    scale = zoom * config.scale ** rng.uniform(-1, 1)
    angle = rng.uniform(0, 2 * np.pi) if config.rotate else 0.0
    mirror = -1.0 if config.flip and rng.random() < 0.5 else 1.0
    cosine, sine = np.cos(angle), np.sin(angle)
    # Half the edge of the upright square around the rotated crop, in pixels of the image.
    half = (config.crop_size - 1) / scale / 2 * (abs(cosine) + abs(sine))
    y, x = (_centre(length, half, rng) for length in shape)
    turn = np.array([[cosine * mirror, -sine], [sine * mirror, cosine]])
    return Geometry(turn, scale, (x, y))


def cut_crop(
    image: NDArray[np.float32],
    labels: NDArray[np.int32],
    zoom: float,
    margin: int,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Labelled:
    """Cut a square crop where :func:`draw_geometry` says.

    The labels of the crop reach `margin` pixels beyond it on each side, so that a cell cut by the
    crop keeps its true centre. Outside the image it holds the image's median and no labels.
    """
    geometry = draw_geometry((image.shape[0], image.shape[1]), zoom, config, rng)
    crop = geometry.warp(image, config.crop_size, background(image))
    # OpenCV warps no int32; float32 holds every id below 2**24 exactly.
    edge = config.crop_size + 2 * margin
    ids = geometry.warp(labels.astype(np.float32), edge, 0.0, linear=False)
    return crop.astype(np.float32, copy=False), ids.astype(np.int32)


def background(image: NDArray[np.float32]) -> float:
    """What crops hold outside the image: its median, roughly."""
    return float(np.median(image[::4, ::4]))


def paste_cells(
    crop: Labelled, source: Labelled, share: float, rng: np.random.Generator
) -> Labelled:
    """Copy-paste augmentation: lay a share of the cells of `source` over a crop of the same size.

    Pasted cells cover those of `crop`; their ids follow its ids. The images are blended within a
    few pixels around them, after a shift that makes both backgrounds equally bright. A cell that a
    pasted one cuts in two becomes two connected components, each trained on as a cell of its own.
    """
    cv2 = load_cv2()
    (image, labels), (other, cells) = crop, source
    ids = fastremap.unique(cells[cells > 0])
    pasted = ids[rng.random(ids.size) < share]
    mask = fastremap.mask_except(cells, pasted.tolist()) > 0
    if not mask.any():
        return crop
    margin = (labels.shape[0] - image.shape[0]) // 2
    inner = slice(margin, margin + image.shape[0])
    dilated = cv2.dilate(mask.astype(np.float32), np.ones((5, 5), np.uint8))
    blend = np.maximum(cv2.GaussianBlur(dilated, (0, 0), 1.5), mask)[inner, inner]
    backgrounds = image[labels[inner, inner] == 0], other[cells[inner, inner] == 0]
    shift = 0.0
    if all(pixels.size for pixels in backgrounds):  # else there is nothing to compare
        shift = np.median(backgrounds[0]) - np.median(backgrounds[1])
    mixed = image + blend * (other + np.float32(shift) - image)
    covered = np.where(mask, cells + labels.max(), labels)
    return mixed.astype(np.float32, copy=False), covered.astype(np.int32, copy=False)


def pad_crop(crop: Labelled, share: float, rng: np.random.Generator) -> Labelled:
    """Lay flat padding over a share of the crops; there are no cells beneath it.

    It is a frame, some of whose sides may have no width, or all outside a round field of view.
    """
    if share == 0 or rng.random() >= share:
        return crop
    image, labels = crop
    edge, whole = image.shape[0], labels.shape[0]
    margin = (whole - edge) // 2
    y, x = (axis - margin for axis in np.ogrid[:whole, :whole])
    if rng.random() < 0.5:
        centre, radius = rng.uniform(0.3, 0.7, 2) * edge, rng.uniform(0.4, 0.8) * edge
        padded = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 > radius**2
    else:
        top, left, bottom, right = rng.uniform(0, 0.4, 4) * (rng.random(4) < 0.5) * edge
        padded = (y < top) | (y >= edge - bottom) | (x < left) | (x >= edge - right)
        # Beyond a side without width the crop goes on.
        beyond = (y < 0) & (top == 0) | (y >= edge) & (bottom == 0)
        beyond = beyond | (x < 0) & (left == 0) | (x >= edge) & (right == 0)
        padded &= ~beyond
    inner = slice(margin, margin + edge)
    value = np.float32(rng.uniform(-2, 3))  # normalised: darker or brighter than all else
    return np.where(padded[inner, inner], value, image), np.where(padded, 0, labels)


def vary_intensity(
    image: NDArray[np.float32], config: AugmentConfig, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Change contrast, brightness, gamma, sharpness and noise of a normalised image."""
    varied = image
    if config.gamma > 1:
        power = config.gamma ** rng.uniform(-1, 1)
        # The percentiles of the normalisation leave a few pixels below 0.
        varied = np.sign(varied) * np.abs(varied) ** np.float32(power)
    if config.blur > 0 and rng.random() < 0.5:
        sigma = rng.uniform(0, config.blur)
        if sigma > 0.1:
            varied = load_cv2().GaussianBlur(varied, (0, 0), sigma).astype(np.float32, copy=False)
    contrast = np.float32(1 + rng.uniform(-1, 1) * config.contrast)
    brightness = np.float32(rng.uniform(-1, 1) * config.brightness)
    varied = (varied - np.float32(0.5)) * contrast + np.float32(0.5) + brightness
    if config.noise > 0:
        spread = np.float32(rng.uniform(0, config.noise))
        varied = varied + spread * rng.standard_normal(varied.shape, dtype=np.float32)
    return varied.astype(np.float32, copy=False)


def _centre(length: int, half: float, rng: np.random.Generator) -> float:
    """The centre of a crop along one axis: such that it lies in the image where it fits."""
    last = length - 1
    if 2 * half >= last:
        return last / 2
    return float(rng.uniform(half, last - half))
