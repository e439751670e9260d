"""Flows to labels: round trips, what must hold for any field, noise, and what is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from flowseg import FlowsegError, flows_to_labels, labels_to_flows
from flowseg.arrays.jit import set_threads
from flowseg.arrays.labels import keep_largest_component
from flowseg.flow.runs import find_runs
from helpers.shapes import blobs, disc, smooth_noise

Labels = NDArray[np.int32]


def logits(labels: Labels) -> NDArray[np.float32]:
    return np.where(labels > 0, 3.0, -3.0).astype(np.float32)


def same_cells(found: Labels, expected: Labels) -> bool:
    """Whether two label images are equal but for the ids."""
    pairs = np.unique(np.stack((found.ravel(), expected.ravel())), axis=1)
    return bool(
        np.unique(pairs[0]).size == pairs.shape[1] == np.unique(pairs[1]).size
        and np.all((pairs[0] == 0) == (pairs[1] == 0))
    )


def well_formed(labels: Labels) -> bool:
    """Ids 1..N without gaps, in reading order, each one connected piece."""
    names, first = np.unique(labels[labels > 0], return_index=True)
    runs = find_runs(labels)
    return bool(
        labels.dtype == np.int32
        and np.array_equal(names, np.arange(1, names.size + 1))
        and np.all(np.diff(first) > 0)
        and runs.total == names.size
    )


def test_discs_bars_and_a_ring_come_back() -> None:
    labels = np.zeros((90, 130), dtype=np.int32)
    labels[disc(labels.shape, 20, 20, 12)] = 5
    labels[disc(labels.shape, 20, 44, 11) & (labels == 0)] = 2
    labels[40:45, 5:125] = 3
    labels[45:50, 5:125] = 9
    labels[disc(labels.shape, 70, 30, 15) & ~disc(labels.shape, 70, 30, 8)] = 4
    labels[disc(labels.shape, 70, 30, 5)] = 7
    found = flows_to_labels(labels_to_flows(labels), logits(labels))
    assert well_formed(found)
    assert same_cells(found, labels)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_round_trip_of_random_cells(seed: int) -> None:
    labels = keep_largest_component(blobs(np.random.default_rng(seed)))
    labels = np.where(np.bincount(labels.ravel())[labels] >= 30, labels, 0)
    found = flows_to_labels(labels_to_flows(labels), logits(labels))
    assert well_formed(found)
    overlap = np.zeros((labels.max() + 1, found.max() + 1))
    np.add.at(overlap, (labels.ravel(), found.ravel()), 1)
    union = overlap.sum(axis=1)[:, None] + overlap.sum(axis=0) - overlap
    iou = (overlap / np.maximum(union, 1))[1:, 1:]
    present = np.unique(labels[labels > 0]) - 1
    assert np.mean(iou[present].max(axis=1) > 0.95) >= 0.8


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 2))
def test_any_field_gives_well_formed_labels_inside_the_foreground(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    cellprob = smooth_noise(rng, (2, 40, 50), 2, 3)[0]
    flows = (size * rng.standard_normal((2, 40, 50))).astype(np.float32)
    found = flows_to_labels(flows, cellprob, flow_threshold=0, min_size=4)
    assert well_formed(found)
    areas = np.bincount(found.ravel())[1:]
    assert np.all(areas >= 4)
    holes = (found > 0) & ~(cellprob > 0)
    assert (
        ndimage.label(holes)[0].max() == 0
        or np.bincount(ndimage.label(holes)[0].ravel())[1:].max() <= 4
    )


def test_same_bytes_from_one_thread_two_threads_and_several_callers() -> None:
    labels = np.kron(blobs(np.random.default_rng(4)), np.ones((4, 4), dtype=np.int32))
    flows = labels_to_flows(labels)
    flows += smooth_noise(np.random.default_rng(5), flows.shape, 0.4)
    cellprob = logits(labels)
    try:
        set_threads(1)
        expected = flows_to_labels(flows, cellprob).tobytes()
        set_threads(2)
        assert flows_to_labels(flows, cellprob).tobytes() == expected
        results: list[bytes] = []
        callers = [
            threading.Thread(
                target=lambda: results.append(flows_to_labels(flows, cellprob).tobytes())
            )
            for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        set_threads(None)
    assert results == [expected] * 4


def shape_of(name: str) -> Labels:
    labels = np.zeros((110, 160), dtype=np.int32)
    if name == "bar":
        labels[50:56, 20:140] = 1
    elif name == "U":
        labels[20:95, 40:48] = labels[20:95, 100:108] = labels[87:95, 40:108] = 1
    elif name == "soma and process":
        labels[disc(labels.shape, 50, 40, 15)] = 1
        labels[48:52, 50:113] = 1
    elif name == "disc":
        labels[disc(labels.shape, 50, 60, 15)] = 1
    elif name == "two discs":
        labels[disc(labels.shape, 50, 60, 15)] = 1
        labels[disc(labels.shape, 50, 90, 15) & (labels == 0)] = 2
    else:
        labels[40:45, 20:140] = 1
        labels[45:50, 20:140] = 2
    return labels


@pytest.mark.parametrize(
    ("name", "cells", "at_most"),
    [
        ("bar", 1, 1.2),
        ("U", 1, 1.2),
        ("soma and process", 1, 1.2),
        ("disc", 1, 1.2),
        ("two discs", 2, 2.4),
        ("two bars", 2, 3),
    ],
)
def test_strong_smooth_noise_neither_splits_nor_joins(
    name: str, cells: int, at_most: float
) -> None:
    labels = shape_of(name)
    clean = labels_to_flows(labels)
    counts = []
    for seed in range(12):
        noise = smooth_noise(np.random.default_rng(seed), clean.shape, 0.6)
        found = flows_to_labels((clean + noise) * (labels > 0), logits(labels), flow_threshold=0)
        counts.append(found.max())
    assert np.mean(counts) <= at_most
    assert min(counts) >= cells


def test_flow_threshold_drops_a_cell_whose_flows_are_wrong() -> None:
    labels = np.zeros((40, 80), dtype=np.int32)
    labels[disc(labels.shape, 20, 20, 12)] = 1
    labels[disc(labels.shape, 20, 60, 12)] = 2
    flows = labels_to_flows(labels)
    wrong = np.stack((-flows[1], flows[0])) * 0.9 + 0.4 * flows  # a whirl
    flows[:, labels == 2] = wrong[:, labels == 2]
    kept = flows_to_labels(flows, logits(labels), flow_threshold=0.4)
    assert same_cells(kept, np.where(labels == 1, 1, 0))
    everything = flows_to_labels(flows, logits(labels), flow_threshold=0)
    assert np.array_equal(everything > 0, labels > 0)


def test_thresholds_of_size_and_probability() -> None:
    labels = np.zeros((40, 80), dtype=np.int32)
    labels[5:9, 5:9] = 1
    labels[20:35, 20:35] = 2
    flows, cellprob = labels_to_flows(labels), logits(labels)
    assert flows_to_labels(flows, cellprob, min_size=16).max() == 2
    assert flows_to_labels(flows, cellprob, min_size=17).max() == 1
    cellprob[labels == 1] = 0.5
    assert flows_to_labels(flows, cellprob, cellprob_threshold=1.0).max() == 1
    assert flows_to_labels(flows, cellprob, cellprob_threshold=3.0).max() == 0


def test_small_holes_are_filled_and_large_ones_are_not() -> None:
    labels = np.zeros((50, 50), dtype=np.int32)
    labels[5:45, 5:45] = 1
    labels[10, 10] = 0
    labels[30:36, 30:36] = 0
    found = flows_to_labels(labels_to_flows(labels), logits(labels))
    assert found[10, 10] == 1
    assert not found[30:36, 30:36].any()


def test_few_steps_do_not_bring_the_ends_of_a_long_cell_together() -> None:
    flows = np.zeros((2, 20, 420), dtype=np.float32)
    flows[1, 5:15, :200] = 1
    flows[1, 5:15, 200:] = -1
    cellprob = np.full((20, 420), -1, dtype=np.float32)
    cellprob[5:15] = 1
    assert flows_to_labels(flows, cellprob, flow_threshold=0).max() == 1


@pytest.mark.slow
def test_more_cells_than_16_bits_count() -> None:
    side = 270
    labels = np.zeros((side * 4, side * 4), dtype=np.int32)
    cells = np.kron(np.arange(1, side**2 + 1).reshape(side, side), np.ones((3, 3), dtype=int))
    rows = np.arange(side * 3) // 3 * 4 + np.arange(side * 3) % 3
    labels[np.ix_(rows, rows)] = cells
    found = flows_to_labels(labels_to_flows(labels), logits(labels), min_size=9)
    assert found.max() == side**2 > 65535
    assert same_cells(found, labels)


def test_nothing_above_the_threshold() -> None:
    assert not flows_to_labels(np.ones((2, 8, 9)), np.full((8, 9), -1.0)).any()
    assert flows_to_labels(np.ones((2, 0, 9)), np.ones((0, 9))).shape == (0, 9)


@pytest.mark.parametrize(
    ("flows", "cellprob", "said"),
    [
        (np.zeros((2, 5, 6)), np.zeros((6, 5)), r"cellprob must have the shape \(5, 6\)"),
        (np.zeros((3, 5, 6)), np.zeros((5, 6)), r"flows must have the shape \(2, H, W\)"),
        (np.full((2, 5, 6), np.nan), np.zeros((5, 6)), "flows must be finite"),
        (np.zeros((2, 5, 6)), np.full((5, 6), np.inf), "cellprob must be finite"),
    ],
)
def test_refuses_by_name(
    flows: NDArray[np.float64], cellprob: NDArray[np.float64], said: str
) -> None:
    with pytest.raises(FlowsegError, match=said):
        flows_to_labels(flows, cellprob)


@pytest.mark.slow
@pytest.mark.real
def test_round_trip_of_real_cells(real_data: object) -> None:
    import pandas as pd

    from flowseg.arrays.overlaps import masks_to_labels
    from flowseg.arrays.rle import Masks
    from flowseg.metrics.competition import competition_score

    rows = pd.read_csv(f"{real_data}/train.csv")
    for cell_type in ("shsy5y", "astro", "cort"):
        of_type = rows[rows.cell_type == cell_type]
        chosen = of_type[of_type.id == of_type.id.iloc[0]]
        shape = int(chosen.height.iloc[0]), int(chosen.width.iloc[0])
        masks = Masks.from_strings(chosen.annotation.tolist(), shape)
        labels = keep_largest_component(masks_to_labels(masks))
        found = flows_to_labels(labels_to_flows(labels), logits(labels))
        assert competition_score(labels, found) > 0.97
