"""Metrics of other papers: literal cases, and pycocotools' own answer where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from flowseg.arrays.rle import Masks
from flowseg.metrics.competition import Counts, compare
from flowseg.metrics.other import aggregated_jaccard, coco_mask_precision, pooled_precision

LINE = np.arange(20).reshape(1, -1)


def test_pooled_precision_sums_the_counts_first():
    assert pooled_precision([Counts(3, 3, (3,)), Counts(1, 1, (0,))]) == 3 / 5
    assert pooled_precision([Counts(0, 0, (0,))]) == 1.0
    assert pooled_precision([]) == 1.0


def test_pooled_precision_takes_an_iou_on_the_threshold():
    table = compare((LINE < 20).astype(int), (LINE < 10).astype(int))
    assert table.counts((50,), inclusive=True).tp == (1,)
    assert table.counts((50,)).tp == (0,)


def test_the_counts_of_cellpose_and_stardist_are_pinned():
    # what cellpose 3.1.1.3 `metrics.average_precision` and stardist 0.9.2 `matching` both gave for
    # these label images; one IoU is exactly 0.5, which both take and the competition does not
    truth, pred = blocks(), np.roll(blocks(), 1, axis=1)
    counts = compare(truth, pred).counts((50, 55, 70, 90), inclusive=True)
    peers = [(11, 1, 1), (10, 2, 2), (8, 4, 4), (0, 12, 12)]
    assert list(zip(counts.tp, counts.fp, counts.fn, strict=True)) == peers
    counts = compare(truth, pred).counts((50, 55, 70, 90))
    assert list(zip(counts.tp, counts.fp, counts.fn, strict=True)) == [(10, 2, 2), *peers[1:]]


def test_aggregated_jaccard():
    # shares 6 of a union of 8, then a truth of 5 that is missed and a prediction of 3 in nothing
    truth = 1 * (LINE < 7) + 2 * ((LINE >= 10) & (LINE < 15))
    pred = 1 * ((LINE >= 1) & (LINE < 8)) + 2 * (LINE >= 17)
    assert aggregated_jaccard(compare(truth, pred)) == 6 / (8 + 5 + 3)
    assert aggregated_jaccard(compare(truth, truth)) == 1.0
    nothing = np.zeros_like(truth)
    assert aggregated_jaccard(compare(nothing, nothing)) == 1.0
    assert aggregated_jaccard(compare(truth, nothing)) == 0.0
    assert aggregated_jaccard(compare(nothing, truth)) == 0.0


def test_aggregated_jaccard_takes_the_largest_iou_and_uses_a_prediction_twice():
    # one prediction over two truths of 4: both take it, 4 + 4 shared, unions of 8 each
    truth = 1 * (LINE < 4) + 2 * ((LINE >= 4) & (LINE < 8))
    assert aggregated_jaccard(compare(truth, (LINE < 8).astype(int))) == 8 / 16


def test_coco_mask_precision():
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    masks = Masks.from_dense([(LINE < 5), (LINE >= 5) & (LINE < 10), (LINE >= 10) & (LINE < 20)])
    perfect = coco_mask_precision([(masks, masks)])
    assert (perfect.ap, perfect.ap50, perfect.ap75) == (1.0, 1.0, 1.0)
    # the first one is right: precision is 1 up to a recall of a third
    found = Masks.from_dense([(LINE < 5), (LINE == 19)])
    assert coco_mask_precision([(masks, found)]).ap50 == pytest.approx(34 / 101)
    late = coco_mask_precision([(masks, found.select([1, 0]))])
    assert late.ap50 == pytest.approx(34 / 101 / 2)
    assert coco_mask_precision([(masks, Masks.from_dense([], (1, 20)))]).ap == 0.0
    assert np.isnan(coco_mask_precision([(Masks.from_dense([], (1, 20)), masks)]).ap)


def blocks():
    """Twelve blocks, from 2 to 13 pixels wide."""
    labels = np.zeros((60, 100), dtype=np.int32)
    for k in range(12):
        y, x = 20 * (k // 4), 25 * (k % 4)
        labels[y + 2 : y + 15, x + 3 : x + 5 + k] = k + 1
    return labels
