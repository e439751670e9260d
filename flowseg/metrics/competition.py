"""The score of the Sartorius cell segmentation competition, exactly.

Per image and for each threshold t of 0.50, 0.55 ... 0.95 a truth and a predicted object may match
where their intersection over union (IoU) is greater than t. Then TP / (TP + FP + FN); the score of
the image is the mean over the ten thresholds, the score of a set is the mean over its images.

Points on which public implementations differ, as settled here:

- The mean is taken over images. Pooling the counts of all images first is another number, which
  images with many cells dominate.
- IoU greater than t, not equal, and decided in integers: ``100 * intersection > percent * union``.
- Objects of one side may overlap and none of their pixels is lost. Matching is one to one: TP is
  the size of a maximum matching, so one prediction never counts for two truths, nor two
  predictions for one truth, and the order of the objects plays no part. The matching is made anew
  for each threshold. Where neither side overlaps, each object has at most one partner of IoU
  above one half, and there is nothing to assign.
- A mask without pixels is no object, on either side.

=========  ===========  =====================
truth      predictions  score of the image
=========  ===========  =====================
none       none         1
none       some         0
some       none         0
some       some         as above
=========  ===========  =====================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from flowseg.arrays.rle import Masks
from flowseg.metrics.contingency import Objects, shared_pixels

THRESHOLDS = tuple(range(50, 100, 5))
"""The thresholds of the competition, in percent."""

HIT, MISSED, SPURIOUS, SPLIT, MERGED = range(5)
"""The outcome of an object: see `Outcomes`."""


def competition_score(truth: Objects, pred: Objects) -> float:
    """The competition's score of one image, from 0 to 1.

    Parameters
    ----------
    truth, pred : (H, W) integer label image, list of (H, W) bool masks, or Masks
        Label images may be of any integer type, with gaps in their ids. Masks of a list may
        overlap.

    Returns
    -------
    float
        The mean over the thresholds of TP / (TP + FP + FN); 1 where both sides are empty. The
        module's text says how each open point is settled.

    Raises
    ------
    FlowsegError
        If the two sides differ in shape, or one is of another type.

    Notes
    -----
    Formula: "Evaluation" page of the Kaggle competition "Sartorius - Cell Instance Segmentation".

    Examples
    --------
    >>> truth = [[1, 1, 1, 1, 1, 0], [0, 0, 0, 2, 2, 2]]
    >>> competition_score(truth, truth)
    1.0

    The first cell is found with an IoU of 4/5, above six of ten thresholds; the second is missed:

    >>> competition_score(truth, [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    0.3
    """
    return compare(truth, pred).counts().score


@dataclass(frozen=True)
class Counts:
    """TP, FP and FN of one image at each threshold, from the objects of each side."""

    n_truth: int
    n_pred: int
    tp: tuple[int, ...]
    """Matches at each threshold."""

    @property
    def fp(self) -> tuple[int, ...]:
        """Predicted objects without a match, at each threshold."""
        return tuple(self.n_pred - hits for hits in self.tp)

    @property
    def fn(self) -> tuple[int, ...]:
        """Truth objects without a match, at each threshold."""
        return tuple(self.n_truth - hits for hits in self.tp)

    @property
    def precisions(self) -> tuple[float, ...]:
        """TP / (TP + FP + FN) at each threshold; 1 where there is nothing on either side."""
        total = self.n_truth + self.n_pred
        return tuple(hits / (total - hits) if total else 1.0 for hits in self.tp)

    @property
    def score(self) -> float:
        """The mean of `precisions`."""
        return float(np.mean(self.precisions))


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Counts of mistakes at an IoU of one half.

    An object lies in another when more than half of its own pixels do.
    """

    missed: int
    """Truths without a match that are neither split nor lie in a merged prediction."""
    spurious: int
    """Predictions without a match that neither merge truths nor lie in a split truth."""
    split: int
    """Truths in which two or more predictions lie."""
    merged: int
    """Predictions in which two or more truths lie."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcomes:
    """The outcome of each object; the words are those of `Mistakes`."""

    truth: NDArray[np.int8]
    """(N,): `HIT`, or `MISSED`, `SPLIT`, or `MERGED` for one that lies in a merged prediction."""
    pred: NDArray[np.int8]
    """(M,): `HIT`, or `SPURIOUS`, `MERGED`, or `SPLIT` for one that lies in a split truth."""
    split: NDArray[np.bool_]
    """(N,): Truths in which two or more predictions lie, hits among them."""
    merging: NDArray[np.bool_]
    """(M,): Predictions in which two or more truths lie, hits among them."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Contingency:
    """Which truth shares how many pixels with which prediction, where they share any."""

    truth_areas: NDArray[np.int64]
    pred_areas: NDArray[np.int64]
    """(N,) and (M,): Pixels of each object, none of them 0."""
    truth: NDArray[np.int64]
    pred: NDArray[np.int64]
    shared: NDArray[np.int64]
    """(K,) each: Positions of the two objects, and the pixels they share, at least 1; ordered by
    `truth`."""

    def unions(self) -> NDArray[np.int64]:
        """Pixels of the union of each pair: (K,) int64."""
        return self.truth_areas[self.truth] + self.pred_areas[self.pred] - self.shared

    def counts(self, percents: Sequence[int] = THRESHOLDS, inclusive: bool = False) -> Counts:
        """TP, FP and FN at each IoU threshold, given in percent.

        With `inclusive`, an IoU equal to the threshold is a hit too: not so in the competition.
        """
        sizes = 100 * self.shared[:, None]
        hits = sizes > np.asarray(percents) * self.unions()[:, None] - inclusive
        matching = hits.any(axis=1)
        if self._one_to_one(self.truth[matching], self.pred[matching]):
            tp = tuple(hits.sum(axis=0).tolist())
        else:
            tp = tuple(len(self._matching(column)[0]) for column in hits.T)
        return Counts(len(self.truth_areas), len(self.pred_areas), tp)

    def matches(self, percent: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the truths and the predictions that match at one threshold."""
        return self._matching(100 * self.shared > percent * self.unions())

    def outcomes(self) -> Outcomes:
        """The outcome of each object at an IoU of one half."""
        n, m = len(self.truth_areas), len(self.pred_areas)
        truth_in = 2 * self.shared > self.truth_areas[self.truth]
        pred_in = 2 * self.shared > self.pred_areas[self.pred]
        merging = np.bincount(self.pred[truth_in], minlength=m) > 1
        split = np.bincount(self.truth[pred_in], minlength=n) > 1
        truth, pred = np.full(n, MISSED, dtype=np.int8), np.full(m, SPURIOUS, dtype=np.int8)
        truth[self.truth[truth_in & merging[self.pred]]] = MERGED
        pred[self.pred[pred_in & split[self.truth]]] = SPLIT
        truth[split], pred[merging] = SPLIT, MERGED
        hit, used = self.matches(50)
        truth[hit], pred[used] = HIT, HIT
        return Outcomes(truth=truth, pred=pred, split=split, merging=merging)

    def mistakes(self) -> Mistakes:
        """Counts of mistakes at an IoU of one half."""
        outcomes = self.outcomes()
        return Mistakes(
            missed=int((outcomes.truth == MISSED).sum()),
            spurious=int((outcomes.pred == SPURIOUS).sum()),
            split=int(outcomes.split.sum()),
            merged=int(outcomes.merging.sum()),
        )

    def _one_to_one(self, truth: NDArray[np.int64], pred: NDArray[np.int64]) -> bool:
        """Whether no object is in two of these pairs: then there is nothing to assign."""
        return all(len(side) == 0 or np.bincount(side).max() == 1 for side in (truth, pred))

    def _matching(self, hits: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of truths and predictions of a maximum matching of these pairs."""
        truth, pred = self.truth[hits], self.pred[hits]
        if self._one_to_one(truth, pred):
            return truth, pred
        # Older scipy matches graphs of 32-bit indices only.
        edges = truth.astype(np.int32), pred.astype(np.int32)
        graph = coo_array(
            (np.ones(len(truth), dtype=np.int8), edges),
            shape=(len(self.truth_areas), len(self.pred_areas)),
        ).tocsr()
        partner = maximum_bipartite_matching(graph, perm_type="column")
        hit = np.flatnonzero(partner >= 0)
        return hit, partner[hit].astype(np.int64)


def compare(truth: Objects, pred: Objects) -> Contingency:
    """The contingency table of one image.

    Examples
    --------
    >>> table = compare([[1, 1, 0, 2]], [[7, 7, 7, 0]])
    >>> table.truth.tolist(), table.pred.tolist(), table.shared.tolist()
    ([0], [0], [2])
    >>> table.mistakes()
    Mistakes(missed=1, spurious=0, split=0, merged=0)
    """
    truth_areas, pred_areas, truths, preds, shared = shared_pixels(truth, pred)
    return Contingency(
        truth_areas=truth_areas, pred_areas=pred_areas, truth=truths, pred=preds, shared=shared
    )


def outside_crowd(pred: Masks, truth: Masks, crowd: Masks) -> NDArray[np.bool_]:
    """Which predicted masks have at most half of their pixels in a crowd region: (N,) bool.

    Pixels of true cells are in none; what lies in one is neither right nor wrong.
    """
    ignored = (crowd.paint() > 0) & (truth.paint() == 0)
    before = np.concatenate([[0], np.cumsum(ignored)])
    by_run = before[pred.starts + pred.lengths] - before[pred.starts]
    shared = np.diff(np.concatenate([[0], np.cumsum(by_run)])[pred.offsets])
    outside: NDArray[np.bool_] = 2 * shared <= pred.areas()
    return outside
