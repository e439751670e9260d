"""The competition's score against an independent brute force, by its laws, and case by case."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.metrics.competition import THRESHOLDS, compare, competition_score

LABELS = hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 5))
MASK_LISTS = st.lists(hnp.arrays(np.bool_, (3, 4)), max_size=5)
EMPTY = np.zeros((3, 4), dtype=int)
SOME = np.array([[1, 1, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])


def brute_force(truth, pred):
    """(tp, fp, fn) at each threshold by trying every way to match; masks are sets of pixels."""
    truth = [set(np.flatnonzero(mask)) for mask in truth if mask.any()]
    pred = [set(np.flatnonzero(mask)) for mask in pred if mask.any()]
    rows = []
    for percent in range(50, 100, 5):
        allowed = [
            {j for j, p in enumerate(pred) if 100 * len(t & p) > percent * len(t | p)}
            for t in truth
        ]

        def most(i, used, allowed=allowed):
            if i == len(allowed):
                return 0
            ways = [1 + most(i + 1, used | {j}, allowed) for j in allowed[i] - used]
            return max([most(i + 1, used, allowed), *ways])

        tp = most(0, frozenset())
        rows.append((tp, len(pred) - tp, len(truth) - tp))
    return rows


def random_blobs(rng, count, near=()):
    """Ellipses that overlap, some of them a copy of one of `near` with a few pixels changed."""
    y, x = np.mgrid[:24, :30]
    masks = []
    for _ in range(count):
        if len(near) and rng.random() < 0.7:
            mask = near[rng.integers(len(near))].copy()
            mask ^= rng.random(mask.shape) < rng.choice([0, 0.002, 0.01, 0.05])
        else:
            cy, cx, ry, rx = rng.uniform((0, 0, 1, 1), (24, 30, 8, 8))
            mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        masks.append(mask)
    return masks


@pytest.mark.slow
def test_equal_to_brute_force_in_every_count_on_a_thousand_pairs_with_overlaps(rng):
    contested = 0
    for _ in range(1000):
        truth = random_blobs(rng, rng.integers(0, 9))
        pred = random_blobs(rng, rng.integers(0, 7), near=truth)
        counts = compare(truth, pred).counts()
        rows = list(zip(counts.tp, counts.fp, counts.fn, strict=True))
        assert rows == brute_force(truth, pred)
        contested += bool(truth) and np.sum(truth, axis=0).max() > 1
    assert contested > 500


@given(MASK_LISTS, MASK_LISTS)
def test_equal_to_brute_force_on_any_small_masks(truth, pred):
    counts = compare(Masks.from_dense(truth, (3, 4)), Masks.from_dense(pred, (3, 4))).counts()
    assert list(zip(counts.tp, counts.fp, counts.fn, strict=True)) == brute_force(truth, pred)


@given(LABELS)
def test_a_perfect_prediction_scores_one(labels):
    assert competition_score(labels, labels) == 1.0


@given(LABELS, LABELS, st.permutations(range(1, 6)), st.permutations(range(1, 6)))
def test_the_ids_play_no_part(truth, pred, to, po):
    score = competition_score(truth, pred)
    assert competition_score(np.array([0, *to])[truth], np.array([0, *po])[pred]) == score
    assert competition_score(truth * 70_001, pred.astype(np.uint64) * 2**40) == score


@given(MASK_LISTS, st.randoms(use_true_random=False))
def test_the_order_of_overlapping_masks_plays_no_part(masks, random):
    half = [mask & (np.arange(12).reshape(3, 4) % 3 > 0) for mask in masks]
    before = competition_score(Masks.from_dense(masks, (3, 4)), Masks.from_dense(half, (3, 4)))
    random.shuffle(masks)
    random.shuffle(half)
    after = competition_score(Masks.from_dense(masks, (3, 4)), Masks.from_dense(half, (3, 4)))
    assert after == before


@given(LABELS, st.integers(0, 2**32 - 1))
def test_deleting_a_correct_object_lowers_the_score_where_it_was_correct(truth, seed):
    pred = truth.copy()
    pred[np.random.default_rng(seed).random(truth.shape) < 0.1] = 0
    before = compare(truth, pred).counts()
    for i in np.unique(pred[pred > 0]):
        inside, union = np.sum((truth == i) & (pred == i)), np.sum((truth == i) | (pred == i))
        after = compare(truth, np.where(pred == i, 0, pred)).counts()
        for k, percent in enumerate(THRESHOLDS):
            if 100 * inside > percent * union:
                assert after.precisions[k] < before.precisions[k]
            else:  # there it was a false alarm
                assert after.precisions[k] >= before.precisions[k]
        if inside == union:
            assert after.score < before.score


@pytest.mark.parametrize(
    ("truth", "pred", "score"),
    [
        (EMPTY, EMPTY, 1),
        (EMPTY, SOME, 0),
        (SOME, EMPTY, 0),
        (SOME, SOME, 1),
        ([], [], 1),
        ([], SOME, 0),
        (SOME, [], 0),
        (SOME, [EMPTY], 0),
        ([EMPTY > 0], [EMPTY > 0, EMPTY > 0], 1),
    ],
)
def test_each_empty_case(truth, pred, score):
    assert competition_score(truth, pred) == score


@pytest.mark.parametrize(("part", "hits"), [(10, 0), (11, 1), (12, 2), (13, 3), (19, 9), (20, 10)])
def test_an_iou_on_a_threshold_is_no_hit(part, hits):
    # the IoU is part / 20: 0.50, 0.55, 0.60 (as a float sum 0.6000000000000001), 0.65, 0.95, 1
    truth = np.ones((1, 20), dtype=int)
    counts = compare(truth, truth * (np.arange(20) < part)).counts()
    assert counts.tp == (1,) * hits + (0,) * (10 - hits)


def test_one_prediction_never_counts_for_two_truths():
    mask = np.ones((2, 5), dtype=bool)
    counts = compare([mask, mask], [mask]).counts()
    assert (counts.tp[0], counts.fp[0], counts.fn[0]) == (1, 0, 1)
    assert compare([mask, mask], [mask, mask]).counts().tp == (2,) * 10


def test_matching_is_the_largest_not_the_greedy_one():
    # a fits p (0.9) and q (0.8), b fits p only (0.8): taking the best pair first would lose b
    line = np.arange(20).reshape(1, -1)
    a, b = (line < 10), (line >= 1) & (line < 9)
    p, q = (line >= 1) & (line < 10), (line < 10) & (line >= 0) & (line != 3) & (line != 4)
    for truth in permutations([a, b]):
        for pred in permutations([p, q]):
            assert compare(list(truth), list(pred)).counts().tp[0] == 2


def test_truth_keeps_its_overlaps():
    # as a label image the second mask would lose half of its pixels, and be missed
    line = np.arange(30).reshape(1, -1)
    masks = [line < 10, (line >= 5) & (line < 15)]
    assert competition_score(masks, masks) == 1.0


def test_each_kind_of_mistake():
    truth = np.zeros((5, 12), dtype=int)
    truth[0, :8] = 1  # found as two halves
    truth[1, :4] = 2  # found as one with the next
    truth[1, 4:8] = 3
    truth[2, :4] = 4  # not found
    truth[3, :4] = 5  # found
    pred = np.zeros_like(truth)
    pred[0, :4], pred[0, 4:8] = 1, 2
    pred[1, :8] = 3
    pred[3, :4] = 4
    pred[4, 6:9] = 5  # nothing there
    mistakes = compare(truth, pred).mistakes()
    assert (mistakes.split, mistakes.merged, mistakes.missed, mistakes.spurious) == (1, 1, 1, 1)
    counts = compare(truth, pred).counts()
    assert (counts.tp[0], counts.fp[0], counts.fn[0]) == (1, 4, 4)


def test_all_ways_to_give_the_same_objects():
    masks = [SOME == 1, SOME == 2]
    for same in (
        SOME.tolist(),
        SOME.astype(np.uint8),
        masks,
        np.stack(masks),
        Masks.from_dense(masks),
        [[[1, 1, 0, 0], [0] * 4, [0] * 4], masks[1]],
    ):
        assert competition_score(same, SOME) == 1.0
        assert competition_score(SOME, same) == 1.0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(FlowsegError, match="shape"):
        competition_score(SOME, SOME[:2])
    with pytest.raises(FlowsegError, match="2-D array of integers"):
        competition_score(SOME, SOME.astype(float))
    with pytest.raises(FlowsegError, match="2-D array of integers"):
        competition_score(SOME, SOME > 0)


def test_the_thresholds_are_those_of_the_competition():
    assert THRESHOLDS == (50, 55, 60, 65, 70, 75, 80, 85, 90, 95)
