"""The image of optical thickness, as phase contrast shows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowseg.synthetic.optics import Optics, photograph, random_optics

CLEAR = Optics(halo=3.0, noise=0.0, illumination=0.0, defocus=0.4)


def disc(thickness: float, radius: int = 8) -> np.ndarray:
    y, x = np.mgrid[-32:32, -32:32]
    return np.where(y**2 + x**2 < radius**2, thickness, 0).astype(np.float32)


def at(image: np.ndarray, distance: int) -> float:
    return float(image[32, 32 + distance])


def test_a_thin_object_is_dark_in_a_bright_halo() -> None:
    image = photograph(disc(0.4), CLEAR, np.random.default_rng(0))
    assert image.dtype == np.uint8
    assert at(image, 7) < at(image, 30) < at(image, 9)
    assert at(image, 30) == 128


def test_negative_contrast_is_the_other_way_round() -> None:
    image = photograph(disc(0.4), replace(CLEAR, negative=True), np.random.default_rng(0))
    assert at(image, 7) > at(image, 30) > at(image, 9)


def test_a_thick_object_turns_bright() -> None:
    """Half a wave against its halo, as dividing and dead cells are."""
    image = photograph(disc(np.pi), CLEAR, np.random.default_rng(0))
    assert at(image, 7) > 140


def test_a_wider_ring_makes_a_wider_halo() -> None:
    narrow, wide = (
        photograph(disc(0.4), replace(CLEAR, halo=halo), np.random.default_rng(0))
        for halo in (1.5, 6.0)
    )
    assert at(wide, 16) > at(narrow, 16) == 128
    far = replace(CLEAR, wide_halo=0.5)
    assert at(photograph(disc(0.4), far, np.random.default_rng(0)), 16) > 128


def test_subtracting_what_is_coarse_leaves_an_even_background() -> None:
    slope = np.tile(np.linspace(0, 1.0, 64, dtype=np.float32), (64, 1))
    plain = photograph(slope, CLEAR, np.random.default_rng(0)).astype(float)
    even = photograph(slope, replace(CLEAR, high_pass=4.0), np.random.default_rng(0)).astype(float)
    assert even[:, 16:48].std() <= plain[:, 16:48].std()
    assert abs(even[:, 16:48].mean() - 128) < 2


def test_noise_and_light() -> None:
    rng = np.random.default_rng(0)
    empty = np.zeros((128, 160), np.float32)
    for grain in (0.0, 0.8):
        noisy = photograph(empty, replace(CLEAR, noise=5.0, grain=grain), rng)
        assert noisy.std() == pytest.approx(5.0, rel=0.1)
    dim = photograph(empty, replace(CLEAR, vignette=0.3), rng)
    assert dim[64, 80] - dim[0, 0] > 25
    assert photograph(empty, replace(CLEAR, jpeg=50, noise=5.0), rng).shape == (128, 160)


@pytest.mark.parametrize("shape", [(32, 32), (33, 201)])
def test_any_microscope_takes_any_image(shape: tuple[int, int]) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        optics = random_optics(rng.uniform(10, 45), rng)
        phase = rng.uniform(0, 1, shape).astype(np.float32)
        image = photograph(phase, optics, rng)
        assert image.shape == shape
        assert image.std() > 0
