"""The image that a phase-contrast microscope makes of optical thickness.

An object of phase p (radians) leaves a light field exp(ip). The phase ring shifts the light that
passes undiffracted by a quarter wave and weakens it; since the ring is wide it also catches light
that the object diffracted a little, which makes the halo (Yin et al., "Understanding the phase
contrast optics to restore artifact-free microscopy images for segmentation", Medical Image
Analysis 16, 2012). Thick objects turn bright, as in a microscope.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flowseg.io.opencv import load_cv2

Floats = npt.NDArray[np.float32]

_GREY = 128.0


@dataclass(frozen=True, kw_only=True)
class Optics:
    """Microscope, camera and file. Lengths in pixels, intensities in grey levels of 255."""

    halo: float
    """Standard deviation of the part of the field that the ring takes for undiffracted."""
    wide_halo: float = 0.0
    """Share of that part that reaches three times as far."""
    leak: float = 0.6
    """Amplitude that the ring lets pass."""
    negative: bool = False
    """Whether thick is bright."""
    defocus: float = 0.5
    """Standard deviation of the blur."""
    high_pass: float | None = None
    """Standard deviation of what some instruments subtract to make the background even."""
    contrast: float = 40.0
    """Grey levels of a relative change of intensity by one."""
    illumination: float = 2.0
    """Standard deviation of the illumination."""
    vignette: float = 0.0
    """Loss of light at the corners."""
    noise: float = 2.0
    """Standard deviation of the camera's noise."""
    grain: float = 0.6
    """Standard deviation of the blur of that noise; 0 is none."""
    jpeg: int | None = None
    """Quality of a compression that loses something."""


def random_optics(diameter: float, rng: np.random.Generator) -> Optics:
    """Any microscope that shows cells of that diameter: each number from a wide range."""
    flat = rng.random() < 0.55
    return Optics(
        halo=float(np.exp(rng.uniform(np.log(1.2), np.log(max(2.5, 0.3 * diameter))))),
        wide_halo=float(rng.uniform(0, 0.7) * (rng.random() < 0.5)),
        leak=float(rng.uniform(0.35, 1.1)),
        negative=bool(rng.random() < 0.06),
        defocus=float(rng.uniform(0.3, min(1.5, 0.4 + 0.04 * diameter))),
        high_pass=float(np.exp(rng.uniform(np.log(2.5), np.log(20)))) if flat else None,
        contrast=float(rng.uniform(20, 70)),
        illumination=float(rng.uniform(0, 8) ** 1.3 / (3 if flat else 1)),
        vignette=0.0 if flat else float(rng.uniform(0, 0.3)),
        noise=float(np.exp(rng.uniform(np.log(0.3), np.log(6)))),
        grain=float(rng.choice([0.0, rng.uniform(0.4, 1.2)])),
        jpeg=int(rng.integers(40, 95)) if rng.random() < 0.2 else None,
    )


def photograph(phase: Floats, optics: Optics, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The image (H, W) of a map of phase, in grey levels."""
    cv2 = load_cv2()

    def blur(maps: Floats, sigma: float) -> Floats:
        blurred: Floats = cv2.GaussianBlur(maps, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        return blurred

    phase = blur(phase, optics.defocus)
    field = np.stack((np.cos(phase), np.sin(phase)), 2)
    direct = blur(field, optics.halo)
    if optics.wide_halo > 0:
        direct += np.float32(optics.wide_halo) * (_wide_blur(direct, 3 * optics.halo) - direct)
    diffracted = field - direct
    # A quarter wave: (a + ib) turned by i or -i.
    turned = direct[..., ::-1] * np.array([-1, 1], np.float32)
    sign = 1 if optics.negative else -1
    total = diffracted + np.float32(sign * optics.leak) * turned
    light = np.square(total).sum(2) / np.float32(optics.leak**2) - 1
    if optics.high_pass is not None:
        light -= _wide_blur(light, optics.high_pass)
    image = _GREY + np.float32(optics.contrast) * np.clip(light, -2.5, 4)
    noise = rng.standard_normal(phase.shape, np.float32)
    if optics.grain > 0.3:
        noise = blur(noise, optics.grain) * np.float32(2 * np.sqrt(np.pi) * optics.grain)
    image += optics.noise * noise + _illumination(phase.shape, optics, rng)
    grey: npt.NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if optics.jpeg is not None:
        code = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, optics.jpeg])[1]
        grey = cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)
    return grey


def _wide_blur(maps: Floats, sigma: float) -> Floats:
    """A Gaussian blur, of a smaller copy where it is wide."""
    cv2 = load_cv2()
    shrink = max(1, min(int(sigma / 2), min(maps.shape[:2]) // 8))
    height, width = maps.shape[:2]
    size = (-(-width // shrink), -(-height // shrink))
    small = cv2.resize(maps, size, interpolation=cv2.INTER_AREA) if shrink > 1 else maps
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REFLECT)
    wide: Floats = cv2.resize(small, (width, height)) if shrink > 1 else small
    return wide


def _illumination(shape: tuple[int, ...], optics: Optics, rng: np.random.Generator) -> Floats:
    """Illumination that varies slowly over the image, and falls off towards its corners."""
    height, width = shape
    coarse = rng.normal(0, 1, (4, 5)).astype(np.float32) * np.float32(optics.illumination)
    uneven: Floats = load_cv2().resize(coarse, (width, height))
    if optics.vignette > 0:
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        uneven -= (optics.vignette * _GREY / 2 * (y**2 + x**2)).astype(np.float32)
    return uneven
