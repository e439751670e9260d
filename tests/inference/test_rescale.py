"""A part is rescaled to what the whole would hold there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowseg.inference.rescale import footprint, rescale, rescale_part

edges = st.integers(1, 40)


@pytest.mark.slow
@given(st.tuples(edges, edges), st.tuples(edges, edges), st.data())
def test_a_part_is_the_same_bytes_as_the_whole(source, target, data) -> None:
    image = np.random.default_rng(0).standard_normal(source, dtype=np.float32)
    region = []
    for edge in target:
        start = data.draw(st.integers(0, edge - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, edge))))
    need = [footprint(*axis) for axis in zip(source, target, region, strict=True)]
    origin = (need[0].start, need[1].start)
    part = rescale_part(image[tuple(need)], origin, source, target, tuple(region))
    assert np.array_equal(part, rescale(image, target)[tuple(region)])


@pytest.mark.parametrize("target", [(40, 56), (9, 7), (23, 23), (30, 8)])
def test_a_turned_image_is_rescaled_to_the_turned_result(target, rng) -> None:
    image = rng.standard_normal((23, 17), dtype=np.float32)
    turned = rescale(np.rot90(image), target[::-1])
    np.testing.assert_allclose(np.rot90(turned, -1), rescale(image, target), atol=1e-6)


def test_means_are_kept_when_shrinking_and_ramps_when_enlarging(rng) -> None:
    image = rng.random((24, 36), dtype=np.float32)
    assert rescale(image, (6, 9)).mean() == pytest.approx(image.mean(), rel=1e-5)
    np.testing.assert_allclose(rescale(image, (1, 1)), image.mean(), rtol=1e-5)
    ramp = np.arange(10, dtype=np.float32)[None].repeat(3, 0)
    inside = rescale(ramp, (3, 40))[:, 2:-2]
    np.testing.assert_allclose(np.diff(inside, axis=1), 0.25, atol=1e-5)
