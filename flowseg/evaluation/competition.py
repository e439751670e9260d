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
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from flowseg._jit import jit
from flowseg.errors import FlowsegError
from flowseg.rle import Masks

__all__ = [
    "THRESHOLDS",
    "Contingency",
    "Counts",
    "Mistakes",
    "as_masks",
    "compare",
    "competition_score",
]

THRESHOLDS = tuple(range(50, 100, 5))
"""The thresholds of the competition, in percent."""

Objects: TypeAlias = Masks | NDArray[Any] | Sequence[ArrayLike]

_CHUNK = 64  # pixels; about one cell's width, so that a chunk holds one or two runs


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
        Where the two sides differ in shape, or one is no such thing.

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
    """TP, FP and FN of one image at each threshold.

    Attributes
    ----------
    n_truth, n_pred : int
        Objects of each side.
    tp : tuple of int
        Matches at each threshold.
    """

    n_truth: int
    n_pred: int
    tp: tuple[int, ...]

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


@dataclass(frozen=True)
class Mistakes:
    """What went wrong at an IoU of one half.

    An object lies in another when more than half of its own pixels do.

    Attributes
    ----------
    split : int
        Truths in which two or more predictions lie.
    merged : int
        Predictions in which two or more truths lie.
    missed : int
        Truths without a match that are neither split nor lie in a merged prediction.
    spurious : int
        Predictions without a match that neither merge truths nor lie in a split truth.
    """

    missed: int
    spurious: int
    split: int
    merged: int


@dataclass(frozen=True, eq=False)
class Contingency:
    """Which truth shares how many pixels with which prediction, where they share any.

    Attributes
    ----------
    truth_areas : (N,) int64
    pred_areas : (M,) int64
        Pixels of each object, none of them 0.
    truth, pred, shared : (K,) int64
        Positions of the two objects, and the pixels they share: at least 1; ordered by `truth`,
        then `pred`.
    """

    truth_areas: NDArray[np.int64]
    pred_areas: NDArray[np.int64]
    truth: NDArray[np.int64]
    pred: NDArray[np.int64]
    shared: NDArray[np.int64]

    def unions(self) -> NDArray[np.int64]:
        """Pixels of the union of each pair: (K,) int64."""
        return self.truth_areas[self.truth] + self.pred_areas[self.pred] - self.shared

    def counts(self, percents: Sequence[int] = THRESHOLDS, inclusive: bool = False) -> Counts:
        """TP, FP and FN at each IoU threshold, given in percent.

        With `inclusive`, an IoU equal to the threshold is a hit too: not so in the competition.
        """
        tp = tuple(len(self._matching(percent, inclusive)[0]) for percent in percents)
        return Counts(len(self.truth_areas), len(self.pred_areas), tp)

    def mistakes(self) -> Mistakes:
        """What went wrong at an IoU of one half."""
        n, m = len(self.truth_areas), len(self.pred_areas)
        truth_in = 2 * self.shared > self.truth_areas[self.truth]
        pred_in = 2 * self.shared > self.pred_areas[self.pred]
        merging = np.bincount(self.pred[truth_in], minlength=m) > 1
        split = np.bincount(self.truth[pred_in], minlength=n) > 1
        explained_truth, explained_pred = split.copy(), merging.copy()
        explained_truth[self.truth[truth_in & merging[self.pred]]] = True
        explained_pred[self.pred[pred_in & split[self.truth]]] = True
        hit, used = self._matching(50)
        explained_truth[hit] = True
        explained_pred[used] = True
        return Mistakes(
            missed=int(n - explained_truth.sum()),
            spurious=int(m - explained_pred.sum()),
            split=int(split.sum()),
            merged=int(merging.sum()),
        )

    def _matching(
        self, percent: int, inclusive: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of truths and predictions of a maximum matching above this IoU."""
        near = 100 * self.shared > percent * self.unions() - inclusive
        truth, pred = self.truth[near], self.pred[near]
        if len(np.unique(truth)) == len(truth) and len(np.unique(pred)) == len(pred):
            return truth, pred
        graph = coo_array(
            (np.ones(len(truth), dtype=np.int8), (truth, pred)),
            shape=(len(self.truth_areas), len(self.pred_areas)),
        ).tocsr()
        partner = maximum_bipartite_matching(graph, perm_type="column")
        hit = np.flatnonzero(partner >= 0)
        return hit, partner[hit].astype(np.int64)


def compare(truth: Objects, pred: Objects) -> Contingency:
    """The contingency table of one image.

    Parameters
    ----------
    truth, pred : (H, W) integer label image, list of (H, W) bool masks, or Masks

    Examples
    --------
    >>> table = compare([[1, 1, 0, 2]], [[7, 7, 7, 0]])
    >>> table.truth.tolist(), table.pred.tolist(), table.shared.tolist()
    ([0], [0], [2])
    >>> table.mistakes()
    Mistakes(missed=1, spurious=0, split=0, merged=0)
    """
    if len(truth):
        a = as_masks(truth)
        b = as_masks(pred, a.shape)
    else:  # an empty list has the shape of the other side
        b = as_masks(pred)
        a = as_masks(truth, b.shape)
    if a.shape != b.shape:
        raise FlowsegError(f"the truth has shape {a.shape}, the prediction {b.shape}")
    a, b = (side.select(side.areas() > 0) for side in (a, b))
    pairs = _overlaps(
        a.starts, a.lengths, a.offsets, b.starts, b.lengths, b.offsets, a.shape[0] * a.shape[1]
    )
    return Contingency(a.areas(), b.areas(), *pairs)


def as_masks(objects: Objects, shape: tuple[int, int] = (0, 0)) -> Masks:
    """Masks of a label image, of a list of (H, W) masks that may overlap, or as they are.

    `shape` is that of the image; only an empty list needs it.
    """
    if isinstance(objects, Masks):
        return objects
    if isinstance(objects, np.ndarray):
        # a stack of masks is an array of three dimensions
        return Masks.from_dense(objects) if objects.ndim == 3 else Masks.from_labels(objects)
    if not len(objects):
        return Masks.from_dense([], shape)
    if np.ndim(objects[0]) < 2:
        return Masks.from_labels(np.asarray(objects))
    return Masks.from_dense(objects)


@jit
def _overlaps(
    a_starts: Any,
    a_lengths: Any,
    a_offsets: Any,
    b_starts: Any,
    b_lengths: Any,
    b_offsets: Any,
    size: int,
) -> Any:
    """Pairs of masks that share pixels, and how many.

    The pixels are cut into chunks. Each run of `b` is entered in the chunks it lies in; each run
    of `a` looks into those it lies in: every shared pixel is seen once for each pair.
    """
    chunks = (size + _CHUNK - 1) // _CHUNK
    bounds = np.zeros(chunks + 2, np.int64)
    for run in range(len(b_starts)):
        for chunk in range(
            b_starts[run] // _CHUNK, (b_starts[run] + b_lengths[run] - 1) // _CHUNK + 1
        ):
            bounds[chunk + 2] += 1
    bounds = np.cumsum(bounds)
    entries = np.empty(bounds[-1], np.int64)
    owners = np.empty(bounds[-1], np.int64)
    for mask in range(len(b_offsets) - 1):
        for run in range(b_offsets[mask], b_offsets[mask + 1]):
            for chunk in range(
                b_starts[run] // _CHUNK, (b_starts[run] + b_lengths[run] - 1) // _CHUNK + 1
            ):
                entries[bounds[chunk + 1]] = run
                owners[bounds[chunk + 1]] = mask
                bounds[chunk + 1] += 1
    first: Any = [np.int64(0) for _ in range(0)]
    second: Any = [np.int64(0) for _ in range(0)]
    shared: Any = [np.int64(0) for _ in range(0)]
    shares = np.zeros(len(b_offsets) - 1, np.int64)
    touched = np.empty(len(b_offsets) - 1, np.int64)
    for mask in range(len(a_offsets) - 1):
        count = 0
        for run in range(a_offsets[mask], a_offsets[mask + 1]):
            low, high = a_starts[run], a_starts[run] + a_lengths[run]
            for chunk in range(low // _CHUNK, (high - 1) // _CHUNK + 1):
                left, right = max(low, chunk * _CHUNK), min(high, (chunk + 1) * _CHUNK)
                for entry in range(bounds[chunk], bounds[chunk + 1]):
                    other = entries[entry]
                    common = min(right, b_starts[other] + b_lengths[other])
                    common -= max(left, b_starts[other])
                    if common > 0:
                        if shares[owners[entry]] == 0:
                            touched[count] = owners[entry]
                            count += 1
                        shares[owners[entry]] += common
        for other in np.sort(touched[:count]):
            first.append(mask)
            second.append(other)
            shared.append(shares[other])
            shares[other] = 0
    return np.array(first, np.int64), np.array(second, np.int64), np.array(shared, np.int64)
