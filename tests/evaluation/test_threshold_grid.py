"""The grid search gives the scores of the dynamics run with each setting."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from flowseg.arrays.rle import Masks
from flowseg.evaluation.threshold_grid import score_grid
from helpers.samples import CELL, GRID, sample, score_directly


@pytest.mark.parametrize("seed", range(3))
def test_the_sweep_is_the_dynamics_run_at_each_setting(seed):
    one = sample(seed)
    scores = score_grid(one, GRID)
    indices = list(itertools.product(*map(range, GRID.shape)))
    assert [scores[index] for index in indices] == [
        score_directly(one, GRID.settings_at(index, CELL)) for index in indices
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
        for index in ((0, 0, 0), (2, 1, 1), (3, 3, 3)):
            assert scores[index] == score_directly(case, GRID.settings_at(index, CELL))


def test_cells_in_crowd_regions_do_not_count():
    one = sample(0)
    left = np.zeros((70, 80), bool)
    left[:, :40] = True
    inside = np.array([one.truth.dense(i)[left].any() for i in range(len(one.truth))])
    case = replace(one, truth=one.truth.select(~inside), crowd=Masks.from_dense([left]))
    scores = score_grid(case, GRID)
    for index in ((0, 0, 0), (2, 1, 1), (3, 3, 3)):
        assert scores[index] == score_directly(case, GRID.settings_at(index, CELL))
    gains = scores - score_grid(replace(case, crowd=None), GRID)
    assert gains.min() >= 0
    assert gains.max() > 0.1


def test_half_floats_change_the_scores_little():
    one = sample(0)
    half = {"flows": one.flows.astype(np.float16), "cellprob": one.cellprob.astype(np.float16)}
    assert np.abs(score_grid(replace(one, **half), GRID) - score_grid(one, GRID)).max() < 0.02
