"""Calibration: the choice of settings and the guards against overfitting."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from flowseg import FlowsegError
from flowseg.config.schema import CellTypeSettings
from flowseg.evaluation.calibration import (
    _choose,
    _tune,
    bootstrap_interval,
    calibrate,
    default_grid,
)
from flowseg.evaluation.threshold_grid import ThresholdGrid
from helpers.samples import CELL, GRID, sample, score_directly


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
        np.mean([score_directly(one, cell) for one in samples]) for cell in (CELL, tuning.tuned)
    )
    assert tuning.default_score == pytest.approx(default)
    assert tuning.tuned_score == pytest.approx(tuned)
    assert [result.scores[one.image_id].default for one in samples] == [
        score_directly(one, CELL) for one in samples
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
            assert result.scores[one.image_id].calibrated == score_directly(one, chosen)


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
