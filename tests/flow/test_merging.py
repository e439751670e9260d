"""Merging of basins: each constant decides a case, and contacts are counted as by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowseg import labels_to_flows
from flowseg.flow.merging import contacts, merge_basins
from flowseg.flow.residuals import flow_residuals
from flowseg.flow.runs import find_runs
from helpers.shapes import blobs, disc, smooth_noise

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Residual = Callable[[frozenset[int]], float]

AREA = 800.0  # pixels of each basin of `side_by_side`


def residual_of(image: Ints, residual: Residual) -> Callable[[Ints, NDArray[np.int64]], object]:
    """Stands in for `flow_residuals`: from the basins of a cell to its residual."""

    def residuals(table: Ints, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
        members = [
            frozenset(image[table[0, first:last], table[1, first:last]].tolist())
            for first, last in pairwise(offsets)
        ]
        return np.array([residual(ids) for ids in members], np.float64)

    return residuals


def merged(image: Ints, flows: Floats, residual: Residual | None = None) -> list[set[int]]:
    """The ids of basins that became one cell, in order."""
    runs = find_runs(image, background=True)
    measure = residual_of(image, residual or (lambda _: 0.0))
    root, areas, _ = merge_basins(runs, flows, False, measure)
    cells: dict[int, set[int]] = defaultdict(set)
    for basin, component in zip(runs.ids.tolist(), runs.components.tolist(), strict=True):
        if basin:
            cells[int(root[component])].add(basin)
    sizes = np.bincount(image.ravel())
    assert {k: sum(sizes[i] for i in ids) for k, ids in cells.items()} == {
        k: areas[k] for k in np.flatnonzero(areas)
    }
    return sorted(cells.values(), key=min)


def side_by_side(
    mean: float | list[float], *, rows: int = 40, widths: tuple[int, ...] = (20, 20), dy: float = 1
) -> tuple[Ints, Floats]:
    """Basins in a row, with this mean divergence at each contact, the prior included."""
    means = np.broadcast_to(mean, len(widths) - 1)
    steps = (means * (rows + 2.0) - 2.0 * 0.3) / rows
    image = np.tile(np.repeat(np.arange(1, len(widths) + 1, dtype=np.int32), widths), (rows, 1))
    dx = np.concatenate(([0.0], np.cumsum(steps)))
    flows = np.stack((np.full(image.shape, dy), dx[image - 1])).astype(np.float32)
    return image, flows


def two(own: float, joint: float) -> Residual:
    """Residuals of two basins, per pixel of one of them: the sum of their own, and as one cell."""
    return lambda ids: AREA * (joint if len(ids) > 1 else own / 2)


@pytest.mark.parametrize(("mean", "cells"), [(0.049, 1), (0.051, 2)])
def test_flows_that_run_on_are_one_cell_whatever_the_residuals(mean: float, cells: int) -> None:
    assert len(merged(*side_by_side(mean))) == cells


@pytest.mark.parametrize(("rows", "width", "cells"), [(7, 2, 1), (5, 3, 2)])
def test_a_fragment_has_fewer_than_15_pixels(rows: int, width: int, cells: int) -> None:
    assert len(merged(*side_by_side(0.3, rows=rows, widths=(width, 20)))) == cells


@pytest.mark.parametrize(("mean", "cells"), [(0.59, 1), (0.61, 2)])
def test_a_fragment_does_not_merge_across_a_border(mean: float, cells: int) -> None:
    assert len(merged(*side_by_side(mean, rows=7, widths=(2, 20)))) == cells


def test_a_fragment_merges_with_its_best_contact_though_that_has_a_better_one() -> None:
    image, flows = side_by_side([0.5, 0.4, 0.02], rows=7, widths=(20, 2, 20, 20))
    assert merged(image, flows) == [{1}, {2, 3, 4}]


@pytest.mark.parametrize(("rows", "cells"), [(9, 2), (11, 1)])
def test_a_short_contact_is_drawn_to_the_prior(rows: int, cells: int) -> None:
    """Without divergence the mean is 0.6 / (length + 2)."""
    image, flows = side_by_side(0.6 / (rows + 2), rows=rows)
    assert np.all(flows[1] == 0)
    assert len(merged(image, flows)) == cells


def test_a_contact_of_corners_alone_has_the_prior_of_a_fragment_that_merges() -> None:
    image = np.zeros((30, 30), np.int32)
    image[:20, :20], image[20:23, 20:23] = 1, 2
    flows = np.zeros((2, 30, 30), np.float32)
    assert merged(image, flows) == [{1, 2}]
    image[20:25, 20:25] = 2
    assert merged(image, flows) == [{1}, {2}]


@pytest.mark.parametrize(("mean", "cells"), [(0.99, 1), (1.01, 2)])
def test_flows_that_diverge_are_two_cells_whatever_the_residuals(mean: float, cells: int) -> None:
    assert len(merged(*side_by_side(mean), two(9.0, 0.0))) == cells


@pytest.mark.parametrize(("mean", "noise"), [(0.5, 2.0), (0.3, 2.0), (0.5, 3.0), (0.9, 4.0)])
@pytest.mark.parametrize(("excess", "cells"), [(-0.01, 1), (0.01, 2)])
def test_the_penalty_rises_with_the_divergence_and_falls_with_noise(
    mean: float, noise: float, excess: float, cells: int
) -> None:
    own = 2 * noise  # of both, per pixel of the smaller
    limit = own - (3.5 * mean - 1.2 * noise)
    assert len(merged(*side_by_side(mean), two(own, limit + excess))) == cells


def test_the_penalty_counts_the_pixels_of_the_smaller() -> None:
    image, flows = side_by_side(0.5, widths=(20, 60))
    noise = 2.0
    own, penalty = noise * 80 * 40, (3.5 * 0.5 - 1.2 * noise) * 20 * 40
    for excess, cells in ((-1.0, 1), (1.0, 2)):
        joint = own - penalty + excess
        found = merged(image, flows, lambda ids, j=joint: j if len(ids) > 1 else own / 2)
        assert len(found) == cells


@pytest.mark.parametrize(("share", "cells"), [(0.979, 1), (0.981, 2)])
def test_a_fit_better_by_two_percent_is_enough(share: float, cells: int) -> None:
    assert len(merged(*side_by_side(0.5), two(1.0, share))) == cells


@pytest.mark.parametrize(("own", "cells"), [(0.11, 1), (0.09, 2)])
def test_cells_that_fit_well_stay(own: float, cells: int) -> None:
    assert len(merged(*side_by_side(0.5), two(own, 0.0))) == cells


@pytest.mark.parametrize(("length", "cells"), [(0.61, 1), (0.59, 2)])
def test_short_flows_fit_anything_and_do_not_count(length: float, cells: int) -> None:
    image, flows = side_by_side(0.2)
    flows *= length / np.hypot(*flows)
    # The divergence of shorter flows is lower, but neither below 0.05 nor above 1.
    assert len(merged(image, flows, two(2.0, 0.0))) == cells


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [(0.5, 0.2, [{1}, {2, 3}]), (0.2, 0.5, [{1, 2}, {3}]), (0.4, 0.4, [{1, 2}, {3}])],
)
def test_the_cheapest_pair_merges_first_and_of_equals_the_first(
    left: float, right: float, expected: list[set[int]]
) -> None:
    image, flows = side_by_side([0.5, 0.5], widths=(20, 20, 20))
    joint = {frozenset({1, 2}): left, frozenset({2, 3}): right, frozenset({1, 2, 3}): 9.0}
    for _ in range(3):
        assert merged(image, flows, lambda ids: AREA * joint.get(ids, 0.5)) == expected


def test_pairs_far_apart_merge_at_once_and_a_grown_cell_is_measured_anew() -> None:
    image, flows = side_by_side([0.5, 0.9, 0.5], widths=(20, 20, 20, 20))
    asked: list[frozenset[int]] = []

    def residual(ids: frozenset[int]) -> float:
        asked.append(ids)
        return AREA * {1: 0.5, 2: 0.6 if ids != {2, 3} else 0.9, 4: 1.0}.get(len(ids), 9.0)

    assert merged(image, flows, residual) == [{1, 2, 3, 4}]
    assert frozenset({1, 2, 3}) not in asked
    assert frozenset({1, 2, 3, 4}) in asked


def test_residuals_of_all_cells_where_wanted() -> None:
    image, flows = side_by_side([0.01, 1.5], widths=(20, 20, 20))
    runs = find_runs(image, background=True)
    measure = residual_of(image, lambda ids: float(sum(ids)))
    _, areas, residuals = merge_basins(runs, flows, True, measure)  # type: ignore[arg-type]
    assert residuals[areas > 0].tolist() == [3.0, 3.0]
    _, _, residuals = merge_basins(runs, flows, False, measure)  # type: ignore[arg-type]
    assert np.isnan(residuals).all()


@pytest.mark.parametrize("seed", range(4))
def test_halves_of_a_disc_merge_and_discs_that_touch_do_not(seed: int) -> None:
    one = disc((60, 60), 30, 29.5, 20).astype(np.int32)
    left, right = disc((60, 60), 30, 16, 14), disc((60, 60), 30, 43, 14)
    touching = np.where(right & ~left, 2, left).astype(np.int32)
    noise = smooth_noise(np.random.default_rng(seed), (2, 60, 60), 0.3)
    for labels, expected in ((one, 1), (touching, 2)):
        basins = np.where(labels > 0, 1 + (np.arange(60) >= 30), 0).astype(np.int32)
        flows = (labels_to_flows(labels) + noise) * (labels > 0)
        runs = find_runs(basins, background=True)
        measure = partial(flow_residuals, flows=flows)
        _, areas, _ = merge_basins(runs, flows, False, measure)
        assert np.count_nonzero(areas) == expected


@given(st.integers(0, 10**6))
def test_contacts_are_those_counted_pixel_by_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = blobs(rng, (24, 30), 2) if seed % 2 else rng.integers(0, 4, (9, 11), np.int32)
    flows = rng.standard_normal((2, *labels.shape)).astype(np.float32)
    runs = find_runs(labels, background=True)
    components = np.empty(labels.shape, np.int32)
    for y, start, stop, k in zip(runs.rows, runs.starts, runs.stops, runs.components, strict=True):
        components[y, start:stop] = k
    expected: dict[tuple[int, int], NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
    for y, x in np.argwhere(labels > 0):
        for v, u in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if y + v >= labels.shape[0] or not 0 <= x + u < labels.shape[1]:
                continue
            a, b = components[y, x], components[y + v, x + u]
            if labels[y + v, x + u] and a != b:
                across = flows[0 if v else 1, y + v, x + u] - flows[0 if v else 1, y, x]
                pair = (min(a, b), max(a, b))
                expected[pair] += (1, across) if v == 0 or u == 0 else (0, 0)
    found: dict[tuple[int, int], NDArray[np.float64]] = defaultdict(lambda: np.zeros(2))
    pairs, lengths, divergences = contacts(runs, flows)
    for (a, b), length, divergence in zip(pairs.T, lengths, divergences, strict=True):
        found[min(a, b), max(a, b)] += (length, divergence)
    assert found.keys() == expected.keys()
    for pair, values in expected.items():
        np.testing.assert_allclose(found[pair], values, rtol=1e-5, atol=1e-5)
