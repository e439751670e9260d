"""Calibration: the sweep against the real thing, the choice, and the guards against luck."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from flowseg import FlowsegError, competition_score, flows_to_labels, labels_to_flows
from flowseg.arrays.rle import Masks
from flowseg.config.schema import CellTypeSettings
from flowseg.evaluation.calibration import (
    _choose,
    _tune,
    bootstrap_interval,
    calibrate,
    default_grid,
)
from flowseg.evaluation.threshold_grid import Sample, ThresholdGrid, score_grid
from flowseg.inference.flow_field import load_fields, save_fields

CELL = CellTypeSettings(diameter=12.0)
GRID = ThresholdGrid((0.5, 0.0, -0.5, -1.0), (0.2, 0.4, 0.8, 0.0), (0, 15, 40, 70))


def sample(seed, name="a", group=None, shift=0.0):
    """Touching cells, their flows and logits noisy; cellprob is `shift` too low."""
    rng = np.random.default_rng(seed)
    shape = (70, 80)
    points = rng.uniform((0, 0), shape, size=(35, 2))
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1])
    labels = np.where(distance.min(axis=-1) < 7, distance.argmin(axis=-1) + 1, 0)
    flows = labels_to_flows(labels) + rng.normal(0, 0.25, (2, *shape)).astype(np.float32)
    depth = 7 - distance.min(axis=-1)
    cellprob = (depth / 3 + rng.normal(0, 0.4, shape) - shift).astype(np.float32)
    return Sample(
        image_id=name,
        cell_type="blob",
        group=group or name,
        truth=Masks.from_labels(labels),
        flows=flows,
        cellprob=cellprob,
    )


def direct(one, cell):
    labels = flows_to_labels(
        one.flows,
        one.cellprob,
        cellprob_threshold=cell.cellprob_threshold,
        flow_threshold=cell.flow_threshold,
        min_size=cell.min_size,
    )
    return competition_score(one.truth, labels)


@pytest.mark.parametrize("seed", range(3))
def test_the_sweep_is_the_dynamics_run_at_each_setting(seed):
    one = sample(seed)
    scores = score_grid(one, GRID)
    places = list(itertools.product(*map(range, GRID.shape)))
    assert [scores[place] for place in places] == [
        direct(one, GRID.settings_at(place, CELL)) for place in places
    ]
    for axis in range(3):
        assert np.ptp(scores, axis=axis).max() > 0, "each setting matters"


def test_overlapping_truth_and_images_without_cells():
    one = sample(0)
    twice = [one.truth.dense(i) for i in range(len(one.truth))] + [one.truth.dense(0)]
    doubled = replace(one, truth=Masks.from_dense(twice))
    bare = replace(
        one, truth=Masks.from_dense([], (70, 80)), cellprob=np.full((70, 80), -9, np.float32)
    )
    for case in (doubled, bare, replace(bare, truth=one.truth), replace(one, truth=bare.truth)):
        scores = score_grid(case, GRID)
        for place in ((0, 0, 0), (2, 1, 1), (3, 3, 3)):
            assert scores[place] == direct(case, GRID.settings_at(place, CELL))


def test_the_grid_holds_the_start_and_keeps_neighbours_together():
    odd = CellTypeSettings(diameter=34.0, cellprob_threshold=-0.3, flow_threshold=0.55, min_size=11)
    grid = default_grid(odd)
    assert grid.settings_at(grid.index_of(odd), odd) == odd
    assert grid.flow_thresholds[-1] == 0.0
    assert list(grid.flow_thresholds[:-1]) == sorted(grid.flow_thresholds[:-1])
    assert min(grid.cellprob_thresholds) <= -2
    with pytest.raises(FlowsegError, match="unknown diameter"):
        default_grid(CellTypeSettings())


def test_a_shift_that_all_images_share_is_found():
    samples = [sample(seed, f"im{seed}", shift=1.0) for seed in range(4)]
    result = calibrate(iter(samples), {"blob": CELL, "other": CELL})
    tuning = result.tunings["blob"]
    assert (tuning.images, tuning.groups, tuning.adopted) == (4, 4, True)
    assert result.cell_types["blob"] == tuning.tuned
    assert tuning.tuned.cellprob_threshold <= -0.5
    assert tuning.tuned.diameter == CELL.diameter
    assert tuning.default_score < tuning.nested_score <= tuning.tuned_score
    low, high = tuning.gain_interval
    assert 0 < low <= tuning.nested_score - tuning.default_score <= high
    assert result.cell_types["other"] == CELL
    assert list(result.tunings) == ["blob"]
    default, tuned = (
        np.mean([direct(one, cell) for one in samples]) for cell in (CELL, tuning.tuned)
    )
    assert tuning.default_score == pytest.approx(default)
    assert tuning.tuned_score == pytest.approx(tuned)
    assert [result.scores[one.image_id].default for one in samples] == [
        direct(one, CELL) for one in samples
    ]
    assert np.mean([pair.calibrated for pair in result.scores.values()]) == pytest.approx(
        tuning.nested_score
    )


@pytest.mark.slow
def test_each_group_is_scored_at_what_the_others_choose():
    samples = [sample(seed, f"im{seed}", f"well{seed // 2}", shift=1.0) for seed in range(6)]
    result = calibrate(samples, {"blob": CELL})
    for well in range(3):
        others = [one for one in samples if one.group != f"well{well}"]
        chosen = calibrate(others, {"blob": CELL}).tunings["blob"].tuned
        for one in samples[2 * well : 2 * well + 2]:
            assert result.scores[one.image_id].calibrated == direct(one, chosen)


def test_wells_that_disagree_keep_the_default():
    """In one well cells of fewer than 70 pixels count, in the other they were not annotated."""
    samples = [sample(seed, f"im{seed}", f"well{seed % 2}") for seed in range(4)]
    for k in (1, 3):
        large = np.flatnonzero(samples[k].truth.areas() >= 70)
        samples[k] = replace(samples[k], truth=samples[k].truth.select(large))
    grid = ThresholdGrid((0.0,), (0.4,), (0, 15, 40, 70))
    alone = calibrate(
        [replace(one, group=one.image_id) for one in samples[1::2]],
        {"blob": CELL},
        grids={"blob": grid},
    )
    assert alone.cell_types["blob"].min_size == 15  # each of the two wells has one image only
    result = calibrate(samples, {"blob": CELL}, grids={"blob": grid})
    tuning = result.tunings["blob"]
    assert tuning.nested_score == tuning.default_score
    assert not tuning.adopted
    assert result.cell_types["blob"] == CELL
    assert all(pair.default == pair.calibrated for pair in result.scores.values())


def test_one_group_alone_proves_nothing():
    samples = [sample(seed, f"im{seed}", "well", shift=1.5) for seed in range(2)]
    result = calibrate(samples, {"blob": CELL})
    tuning = result.tunings["blob"]
    assert tuning.nested_score is None
    assert tuning.gain_interval is None
    assert result.cell_types["blob"] == tuning.tuned == CELL


@pytest.mark.slow
def test_luck_gains_nothing(rng):
    """No setting is better than another, so the honest gain must be none on the average."""
    grid = ThresholdGrid((0.5, 0.0, -0.5, -1.0), (0.2, 0.4, 0.8), (0, 15, 40))
    groups = [f"well{k}" for k in range(8)]
    gains, adopted = [], 0
    for _ in range(150):
        scores = 0.3 + rng.normal(0, 0.02, (8, *grid.shape))
        tuning, _ = _tune(CELL, grid, scores, groups, rng)
        gains.append(tuning.nested_score - tuning.default_score)
        adopted += tuning.adopted
    assert adopted > 15  # luck does look like gain
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(150)


def test_equal_settings_keep_the_default():
    scores = np.zeros((5, *GRID.shape))
    start = GRID.index_of(CELL)
    assert _choose(scores, np.arange(5).astype(str), start) == start


def test_order_changes_nothing_and_the_card_is_plain():
    samples = [sample(seed, f"im{seed}", shift=1.0) for seed in range(3)]
    result = calibrate(samples, {"blob": CELL}, seed=3)
    again = calibrate(samples[::-1], {"blob": CELL}, seed=3)
    assert result == again
    assert list(again.scores) == ["im0", "im1", "im2"]
    plain = result.to_mapping()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["blob"]["tuned"]["cellprob_threshold"] <= 0
    assert plain["blob"]["adopted"] is True


def test_refuses_by_name():
    one = sample(0)
    with pytest.raises(FlowsegError, match="unknown cell type 'blob'"):
        calibrate([one], {"cort": CELL})
    with pytest.raises(FlowsegError, match="'a' comes twice"):
        calibrate([one, one], {"blob": CELL})
    with pytest.raises(FlowsegError, match="finite"):
        calibrate([replace(one, cellprob=np.full((70, 80), np.nan))], {"blob": CELL})


def test_intervals(rng):
    scores = rng.normal(0.3, 0.1, 400)
    low, high = bootstrap_interval(scores, np.random.default_rng(1))
    error = 1.96 * scores.std() / 20
    assert (low, high) == pytest.approx((scores.mean() - error, scores.mean() + error), abs=1e-3)
    assert bootstrap_interval(scores, np.random.default_rng(1)) == (low, high)
    assert bootstrap_interval([0.25], rng) == (0.25, 0.25)
    narrow = bootstrap_interval(scores, np.random.default_rng(1), level=0.5)
    assert low < narrow[0] < narrow[1] < high
    with pytest.raises(FlowsegError, match="one image at least"):
        bootstrap_interval([], rng)


def test_fields_come_back_as_half_floats(tmp_path):
    one = sample(0)
    path = tmp_path / "a.npz"
    save_fields(path, one.flows, one.cellprob)
    flows, cellprob = load_fields(path)
    assert flows.dtype == cellprob.dtype == np.float32
    np.testing.assert_array_equal(flows, one.flows.astype(np.float16))
    np.testing.assert_array_equal(cellprob, one.cellprob.astype(np.float16))
    first = path.read_bytes()
    save_fields(path, one.flows, one.cellprob)
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]
    halved = replace(one, flows=flows, cellprob=cellprob)
    assert np.abs(score_grid(halved, GRID) - score_grid(one, GRID)).max() < 0.02


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "array", "pickle", "other"])
def test_fields_that_cannot_be_read(tmp_path, damage):
    path = tmp_path / "a.npz"
    save_fields(path, np.zeros((2, 4, 4)), np.zeros((4, 4)))
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("no field")
    elif damage in ("array", "pickle"):
        with path.open("wb") as file:
            np.save(file, np.array([{}]) if damage == "pickle" else np.zeros(3))
    else:
        np.savez(path, flows=np.zeros((2, 4, 4)))
    with pytest.raises(FlowsegError, match="no flow field") as caught:
        load_fields(path)
    assert caught.value.file is not None
