"""Crops: image and labels move together, nothing leaves the picture where it fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowseg.config.schema import AugmentConfig
from flowseg.training.augment import cut_crop, pad_crop, paste_cells, vary_intensity

STILL = AugmentConfig(
    crop_size=32,
    flip=False,
    rotate=False,
    scale=1,
    contrast=0,
    brightness=0,
    gamma=1,
    blur=0,
    noise=0,
)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose values name the pixel, and labels with the same values."""
    ids = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width)
    return ids.astype(np.float32), ids


def test_without_variation_a_crop_is_a_cut(rng: np.random.Generator) -> None:
    image, labels = coordinates(32, 32)  # only one place fits
    crop, ids = cut_crop(image, labels, 1.0, 0, STILL, rng)
    assert crop.shape == ids.shape == (32, 32)
    inner = ids[1:-1, 1:-1]
    assert set(np.diff(inner, axis=1).ravel()) == {1}
    assert set(np.diff(inner, axis=0).ravel()) == {32}


@pytest.mark.parametrize("seed", range(10))
def test_image_and_labels_move_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((120, 150)).astype(np.float32)
    config = replace(STILL, flip=True, rotate=True, scale=1.3)
    image = rows + 1
    crop, ids = cut_crop(image, (rows + 1).astype(np.int32), 1.2, 6, config, rng)
    inner = ids[6:-6, 6:-6]
    known = inner > 0
    assert known.all()
    # Nearest against linear interpolation: at most half a row apart, and one for rounding.
    assert np.abs(crop - inner).max() <= 1.0
    assert columns.max() == 149


def test_mirroring_happens_and_can_be_switched_off() -> None:
    image, labels = coordinates(60, 60)
    for flip, expected in ((True, {-1, 1}), (False, {1})):
        config = replace(STILL, flip=flip)
        steps = set()
        for seed in range(20):
            _, ids = cut_crop(image, labels, 1.0, 0, config, np.random.default_rng(seed))
            steps.add(int(ids[16, 17] - ids[16, 16]))
        assert steps == expected


def test_margin_holds_what_lies_around_the_crop(rng: np.random.Generator) -> None:
    image, labels = coordinates(100, 100)
    crop, ids = cut_crop(image, labels, 1.0, 8, STILL, rng)
    assert ids.shape == (48, 48)
    np.testing.assert_allclose(crop[4:-4, 4:-4], ids[12:-12, 12:-12], atol=51)


def test_an_image_smaller_than_the_crop_is_centred_on_its_median(
    rng: np.random.Generator,
) -> None:
    image = np.full((10, 10), 0.3, np.float32)
    crop, ids = cut_crop(image, np.ones((10, 10), np.int32), 1.0, 0, STILL, rng)
    np.testing.assert_allclose(crop, 0.3, atol=1e-6)
    assert 81 <= ids.sum() <= 121
    assert ids[16, 16] == 1
    assert ids[0, 0] == 0


def test_zoom_enlarges(rng: np.random.Generator) -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[24:40, 24:40] = 7
    _, ids = cut_crop(labels.astype(np.float32), labels, 2.0, 48, STILL, rng)
    assert abs(np.count_nonzero(ids == 7) - 32 * 32) < 140
    assert set(np.unique(ids)) == {0, 7}


def test_intensity_stays_when_nothing_varies(rng: np.random.Generator) -> None:
    image = rng.random((16, 16), dtype=np.float32)
    np.testing.assert_allclose(vary_intensity(image, STILL, rng), image, atol=1e-6)


def test_intensity_varies_within_bounds_and_stays_finite() -> None:
    image = np.linspace(-0.2, 1.3, 400, dtype=np.float32).reshape(20, 20)
    config = AugmentConfig(noise=0, blur=0)
    means = []
    for seed in range(50):
        varied = vary_intensity(image, config, np.random.default_rng(seed))
        assert varied.dtype == np.float32
        assert np.isfinite(varied).all()
        # Contrast, gamma and brightness keep the order of intensities.
        assert (np.diff(varied.ravel()) >= 0).all()
        means.append(varied.mean())
    assert np.std(means) > 0.02


def test_pasted_cells_lie_over_the_others_as_bright_as_their_new_place(
    rng: np.random.Generator,
) -> None:
    # A margin of 4 pixels around images of 24; the source is brighter by 0.5 everywhere.
    labels, cells = np.zeros((2, 32, 32), np.int32)
    labels[6:14, 6:14], labels[22:26, 22:26] = 3, 5
    cells[10:18, 10:18], cells[0:3, 0:3] = 1, 3
    image, other = np.full((2, 24, 24), np.float32(0.25))
    other += 0.5
    other[6:14, 6:14] = 0.875
    mixed, ids = paste_cells((image, labels), (other, cells), 1.0, rng)
    expected = labels.copy()
    expected[10:18, 10:18], expected[0:3, 0:3] = 1 + 5, 3 + 5
    assert np.array_equal(ids, expected)
    assert ids.dtype == np.int32
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed[6:14, 6:14], np.float32(0.375))
    far = np.ones((24, 24), bool)
    far[:20, :20] = False
    np.testing.assert_array_equal(mixed[far], image[far])


def test_cells_are_pasted_as_often_as_said(rng: np.random.Generator) -> None:
    crop = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.int32)
    source = crop[0] + 1, np.arange(1, 1601, dtype=np.int32).reshape(40, 40)
    mixed, ids = paste_cells(crop, source, 0.0, rng)
    assert mixed is crop[0]
    assert ids is crop[1]
    _, ids = paste_cells(crop, source, 0.3, rng)
    assert 0.25 < np.count_nonzero(ids) / 1600 < 0.35


@pytest.mark.parametrize("bare", [0, 3])
def test_where_no_background_is_in_sight_brightness_stays(
    rng: np.random.Generator, bare: int
) -> None:
    full, part = np.ones((2, 8, 8), np.int32)
    part[:bare] = 0
    image, other = np.float32(0.25) * np.ones((2, 8, 8), np.float32)
    mixed, ids = paste_cells((image, part), (other, full), 1.0, rng)
    assert (mixed == 0.25).all()
    assert (ids == 2).all()


def test_padding_is_flat_and_holds_no_cells() -> None:
    rng = np.random.default_rng(3)
    image = rng.standard_normal((64, 64), dtype=np.float32)
    labels = rng.integers(1, 9, (80, 80)).astype(np.int32)
    padded = [pad_crop((image, labels), 1.0, rng) for _ in range(40)]
    shares = []
    for crop, ids in padded:
        changed = crop != image
        assert crop.dtype == np.float32
        assert len(np.unique(crop[changed])) <= 1
        assert np.array_equal(ids[8:72, 8:72] == 0, changed)
        assert np.array_equal(ids[ids > 0], labels[ids > 0])
        shares.append(changed.mean())
    assert min(shares) < 0.2 < max(shares) < 0.95
    same = pad_crop((image, labels), 0.0, rng)
    assert same[0] is image
    assert same[1] is labels
