"""Intensities and sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowseg.arrays.intensity import intensity_span, normalize, to_grey
from flowseg.config.schema import NormalizationConfig
from flowseg.errors import FlowsegError


class TestToGrey:
    @pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4", "f8", "?", ">u2"])
    def test_values_stay(self, dtype: str) -> None:
        image = np.array([[0, 1], [1, 0]], dtype)
        grey = to_grey(image)
        assert grey.dtype == np.float32
        np.testing.assert_array_equal(grey, [[0, 1], [1, 0]])

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_grey_stored_as_colour(self, rng: np.random.Generator, channels: int) -> None:
        grey = rng.integers(0, 65_535, (5, 7), dtype=np.uint16)
        image = np.repeat(grey[..., None], channels, axis=2)
        if channels in (2, 4):
            image[..., -1] = 9  # alpha
        np.testing.assert_array_equal(to_grey(image), grey)

    def test_colour_is_weighted(self) -> None:
        image = np.zeros((1, 3, 3), np.uint8)
        image[0, [0, 1, 2], [0, 1, 2]] = 100
        np.testing.assert_allclose(to_grey(image), [[29.9, 58.7, 11.4]], rtol=1e-6)

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((2, 2, 5)),
            np.zeros((2, 2, 2, 2)),
            np.zeros(4),
            np.zeros((0, 3)),
            np.zeros((2, 2), complex),
            np.array([["a"]]),
        ],
    )
    def test_no_image(self, image: np.ndarray) -> None:
        with pytest.raises(FlowsegError):
            to_grey(image)

    def test_beyond_float32(self) -> None:
        assert np.isinf(to_grey(np.array([[1e300]]))).all()


class TestNormalize:
    def test_percentiles_become_0_and_1(self, rng: np.random.Generator) -> None:
        image = rng.normal(100, 20, (64, 64)).astype(np.float32)
        scaled = normalize(image)
        assert scaled.dtype == np.float32
        np.testing.assert_allclose(np.percentile(scaled, [1, 99]), [0, 1], atol=1e-5)
        assert scaled.min() < 0
        assert scaled.max() > 1

    @given(gain=st.floats(0.01, 1000), offset=st.floats(-1000, 1000))
    def test_gain_and_offset_do_not_matter(self, gain: float, offset: float) -> None:
        image = np.random.default_rng(0).random((16, 16), np.float32)
        np.testing.assert_allclose(
            normalize((image * gain + offset).astype(np.float32)),
            normalize(image),
            atol=1e-3 + 1e-6 * (abs(offset) + gain) / gain,
        )

    def test_constant(self) -> None:
        np.testing.assert_array_equal(normalize(np.full((3, 4), 7, np.float32)), np.zeros((3, 4)))

    def test_nearly_constant(self) -> None:
        image = np.zeros((50, 50), np.float32)
        image[7, 7] = 200
        scaled = normalize(image)
        assert scaled[7, 7] == 1
        assert scaled.sum() == 1

    def test_pixels_that_are_not_finite(self) -> None:
        image = np.arange(101, dtype=np.float32)[None].repeat(3, 0)
        image[1, :] = [np.nan, np.inf, -np.inf] * 33 + [np.nan] * 2
        scaled = normalize(image)
        np.testing.assert_allclose(scaled[0], (np.arange(101) - 1) / 98, atol=1e-6)
        np.testing.assert_allclose(scaled[1], 0.5, atol=1e-6)
        np.testing.assert_array_equal(normalize(np.full((2, 2), np.nan, np.float32)), 0)

    @given(hnp.arrays(np.float32, (4, 5), elements=st.floats(width=32)))
    def test_always_finite(self, image: np.ndarray) -> None:
        scaled = normalize(image)
        assert scaled.shape == image.shape
        assert scaled.dtype == np.float32
        assert np.isfinite(scaled).all()

    def test_the_input_stays(self) -> None:
        image = np.arange(12, dtype=np.float32).reshape(3, 4)
        normalize(image)
        np.testing.assert_array_equal(image.reshape(-1), np.arange(12))


@pytest.fixture
def phase(rng: np.random.Generator) -> np.ndarray:
    image = rng.normal(129, 10, (260, 352)).clip(20, 235).astype(np.float32)
    image[100:140, 100:160] += 25
    return image


class TestForeignPixels:
    """Flat padding and marks do not govern the intensities of what lies beside them."""

    def check(self, image: np.ndarray, phase: np.ndarray) -> None:
        span, plain = intensity_span(image), intensity_span(phase)
        np.testing.assert_allclose(span, plain, atol=1)

    @pytest.mark.parametrize("value", [0, 255, 4000, -1e30])
    @pytest.mark.parametrize("width", [1, 5, 90])
    def test_a_frame(self, phase: np.ndarray, value: float, width: int) -> None:
        self.check(np.pad(phase, width, constant_values=value), phase)

    def test_a_black_frame_with_a_white_scale_bar(self, phase: np.ndarray) -> None:
        image = np.pad(phase, 3)
        image[240:252, 250:340] = 255
        self.check(image, phase)

    def test_black_corners_of_a_turned_image(self, phase: np.ndarray) -> None:
        rows, columns = np.mgrid[:260, :352]
        self.check(np.where(rows + columns < 150, 0, phase), phase)

    def test_gaps_between_the_tiles_of_a_mosaic(self, phase: np.ndarray) -> None:
        image = phase.copy()
        image[128:132], image[:, 170:180] = 0, 0
        self.check(image, phase)

    def test_saturated_cells_count(self, phase: np.ndarray) -> None:
        rows, columns = np.mgrid[:260, :352]
        glow = 400 * np.exp(-((rows - 60) ** 2 + (columns - 60) ** 2) / 400)
        image = np.minimum(phase + glow, 255).astype(np.float32)
        assert intensity_span(image).high == np.percentile(image, 99) == 255

    def test_cells_on_black_count_with_their_background(self, rng: np.random.Generator) -> None:
        image = np.zeros((200, 200), np.float32)
        for top in range(10, 200, 50):
            image[top : top + 20, top : top + 20] = rng.normal(150, 5, (20, 20))
        assert intensity_span(image).low == 0

    def test_percentiles_and_a_fixed_range(self, phase: np.ndarray) -> None:
        how = NormalizationConfig(percentiles=(5.0, 95.0))
        span = intensity_span(phase, how)
        assert (span.low, span.high) == tuple(np.percentile(phase, (5, 95)))
        fixed = NormalizationConfig(range=(100.0, 200.0))
        np.testing.assert_allclose(normalize(phase, how=fixed), (phase - 100) / 100, atol=1e-6)
