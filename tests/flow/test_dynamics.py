"""Dynamics: where pixels come to, and which sinks are one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from flowseg import labels_to_flows
from flowseg.arrays.jit import set_threads
from flowseg.flow.dynamics import doublings, follow_flows
from helpers.shapes import blobs, smooth_noise


def row(*dx: float) -> NDArray[np.float32]:
    """Flows of an image of one row."""
    return np.array([[np.zeros(len(dx))], [dx]], np.float32)


def basins(flows: NDArray[np.float32], niter: int = 200) -> list[list[int]]:
    everywhere = np.ones(flows.shape[1:], np.float32)
    return follow_flows(flows, everywhere, 0.0, niter).tolist()


@pytest.fixture
def one_thread() -> Iterator[None]:
    set_threads(1)
    yield
    set_threads(None)


def test_pixels_come_to_the_sink_they_are_led_to() -> None:
    assert basins(row(1, 1, 0, -1, -1, 1, 1, 0, -1)) == [[1, 1, 1, 1, 1, 2, 2, 2, 2]]


def test_background_has_no_basin_and_stops_pixels() -> None:
    flows, cellprob = row(1, 1, 1, 1, 1, 0), np.array([[1, 1, -1, 1, 1, 1]], np.float32)
    assert follow_flows(flows, cellprob, 0.0, 200).tolist() == [[1, 1, 0, 2, 2, 2]]
    # The second pixel is a sink, since the way out of it is barred.
    assert follow_flows(flows, cellprob, 1.0, 200).tolist() == [[0] * 6]


@pytest.mark.parametrize(("divergence", "crossed"), [(0.44, True), (0.46, False)])
def test_a_wall_is_a_divergence_above_its_limit(divergence: float, crossed: bool) -> None:
    # The pixels on the left go right, ever faster: across the step, or not.
    flows = row(0.5, 0.5, 0.5 + divergence, 0.5 + divergence, 0)
    found = basins(flows)[0]
    assert (found[0] == found[-1]) is crossed


@pytest.mark.parametrize(("divergence", "merged"), [(0.04, True), (0.06, False)])
def test_sinks_side_by_side_are_one_unless_flows_diverge(divergence: float, merged: bool) -> None:
    found = basins(row(-divergence / 2, divergence / 2))[0]
    assert (found[0] == found[1]) is merged


@pytest.mark.parametrize(("divergence", "merged"), [(0.04, True), (0.06, False)])
def test_sinks_at_a_corner_too(divergence: float, merged: bool) -> None:
    flows = np.zeros((2, 2, 2), np.float32)
    # Along the diagonal, the divergence is the mean of the two differences by the root of 2.
    flows[:, 1, 1] = divergence / np.sqrt(2)
    cellprob = np.array([[1, -1], [-1, 1]], np.float32)
    found = follow_flows(flows, cellprob, 0.0, 200)
    assert bool(found[0, 0] == found[1, 1]) is merged


@pytest.mark.parametrize(("niter", "expected"), [(1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (200, 6)])
def test_steps_double(niter: int, expected: int) -> None:
    assert doublings(niter) == expected


@pytest.mark.parametrize(("niter", "steps"), [(1, 4), (4, 4), (8, 8), (9, 16), (100, 40)])
def test_a_pixel_goes_niter_steps_of_one_pixel(niter: int, steps: int) -> None:
    # Flows grow along the row, too slowly for a wall and too fast for ends side by side to be one.
    found = basins(row(*(1 + 0.1 * np.arange(41))), niter)[0]
    assert found == [*range(1, 41 - steps), *[41 - steps] * (steps + 1)]


def test_basins_are_numbered_in_reading_order_without_gaps() -> None:
    rng = np.random.default_rng(3)
    labels = blobs(rng, (96, 128))
    flows = labels_to_flows(labels) + smooth_noise(rng, (2, *labels.shape), 0.5)
    found = follow_flows(flows, np.where(labels > 0, 1, -1).astype(np.float32), 0.0, 200)
    assert np.array_equal(found > 0, labels > 0)
    ids, first = np.unique(found[found > 0], return_index=True)
    assert np.array_equal(ids, np.arange(1, ids.size + 1))
    assert np.all(np.diff(first) > 0)


@pytest.mark.parametrize("seed", range(5))
def test_basins_of_true_flows_keep_to_their_cells(seed: int) -> None:
    labels = blobs(np.random.default_rng(seed))
    cellprob = np.where(labels > 0, 1, -1).astype(np.float32)
    found = follow_flows(labels_to_flows(labels), cellprob, 0.0, 200)
    pixels = np.zeros((found.max() + 1, labels.max() + 1))
    np.add.at(pixels, (found.ravel(), labels.ravel()), 1)
    assert pixels[1:].max(axis=1).sum() > 0.97 * (labels > 0).sum()


def test_threads_change_nothing(one_thread: None) -> None:
    rng = np.random.default_rng(4)
    labels = np.kron(blobs(rng), np.ones((4, 4), dtype=np.int32))  # several chunks
    flows = labels_to_flows(labels) + smooth_noise(rng, (2, *labels.shape), 0.4)
    cellprob = np.where(labels > 0, 1, -1).astype(np.float32)
    alone = follow_flows(flows, cellprob, 0.0, 200)
    set_threads(3)
    assert np.array_equal(follow_flows(flows, cellprob, 0.0, 200), alone)
