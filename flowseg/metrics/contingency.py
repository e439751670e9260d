"""Contingency table of two segmentations: the pixels that each pair of objects shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg.arrays.jit import jit
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError

Objects: TypeAlias = Masks | NDArray[Any] | Sequence[ArrayLike]

Table: TypeAlias = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]
]

_CHUNK = 64  # pixels; about one cell's width, so that a chunk holds one or two runs


def shared_pixels(truth: Objects, pred: Objects) -> Table:
    """Areas of both sides' objects, and the pixels each pair shares where it shares any.

    Returns
    -------
    truth_areas, pred_areas : (N,) and (M,) int64
        Objects without pixels are left out.
    truth, pred, shared : (K,) int64
        Positions of two objects, in order of the first, and the pixels they share.
    """
    if isinstance(truth, np.ndarray) and isinstance(pred, np.ndarray):
        table = _of_labels(truth, pred)
        if table is not None:
            return table
    if len(truth):
        a = as_masks(truth)
        b = as_masks(pred, a.shape)
    else:  # an empty list has the shape of the other side
        b = as_masks(pred)
        a = as_masks(truth, b.shape)
    _check_shapes(a.shape, b.shape)
    a, b = (side.select(side.areas() > 0) for side in (a, b))
    pairs = _of_masks(
        (a.starts, a.lengths, a.offsets), (b.starts, b.lengths, b.offsets), a.shape[0] * a.shape[1]
    )
    return (a.areas(), b.areas(), *pairs)


def as_masks(objects: Objects, shape: tuple[int, int] = (0, 0)) -> Masks:
    """Masks of a label image or of a list of (H, W) masks that may overlap; Masks unchanged.

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


def _check_shapes(truth: tuple[int, ...], pred: tuple[int, ...]) -> None:
    if truth != pred:
        raise FlowsegError(f"the truth has shape {truth}, the prediction {pred}")


def _of_labels(truth: NDArray[Any], pred: NDArray[Any]) -> Table | None:
    """The table of two label images in one pass; None where an id is too large or negative."""
    for image in (truth, pred):
        if image.ndim != 2 or image.dtype.kind not in "iu" or image.dtype.itemsize > 4:
            return None
        if image.dtype == np.uint32:
            return None
    _check_shapes(truth.shape, pred.shape)
    a, b = (np.ascontiguousarray(image, dtype=np.int32).reshape(-1) for image in (truth, pred))
    runs = _pair_runs(a, b)
    lows, tops = runs[:2].min(axis=1, initial=0), runs[:2].max(axis=1, initial=0)
    if lows.min() < 0 or tops.max() > a.size:
        return None
    areas_a, areas_b, first, second, shared = _tabulate(runs, tops[0] + 1, tops[1] + 1)
    present_a, present_b = areas_a > 0, areas_b > 0
    position_a, position_b = np.cumsum(present_a) - 1, np.cumsum(present_b) - 1
    return areas_a[present_a], areas_b[present_b], position_a[first], position_b[second], shared


@jit
def _pair_runs(a: Any, b: Any) -> Any:
    """Runs over which both images stay the same: ids of both and length, (3, R); not 0 in both."""
    runs = np.empty((3, len(a)), np.int32)
    count = 0
    start = 0
    i = j = np.int32(0)
    for pixel in range(len(a)):
        if (a[pixel] ^ i) | (b[pixel] ^ j):  # one branch a pixel
            if i | j:
                runs[0, count], runs[1, count], runs[2, count] = i, j, pixel - start
                count += 1
            start = pixel
            i, j = a[pixel], b[pixel]
    if i | j:
        runs[0, count], runs[1, count], runs[2, count] = i, j, len(a) - start
        count += 1
    return runs[:, :count]


@jit
def _tabulate(runs: Any, n: int, m: int) -> Any:
    """Areas by id, and pairs of ids above 0, in order of the first, with the pixels they share."""
    areas_a, areas_b = np.zeros(n, np.int64), np.zeros(m, np.int64)
    begins = np.zeros(n + 1, np.int64)
    for run in range(runs.shape[1]):
        i, j = runs[0, run], runs[1, run]
        areas_a[i] += runs[2, run]
        areas_b[j] += runs[2, run]
        if i != 0 and j != 0:
            begins[i + 1] += 1
    areas_a[0] = areas_b[0] = 0
    begins = np.cumsum(begins)
    order = np.empty(begins[-1], np.int64)
    ends = begins.copy()
    for run in range(runs.shape[1]):
        i = runs[0, run]
        if i != 0 and runs[1, run] != 0:
            order[ends[i]] = run
            ends[i] += 1
    first, second, shared = np.empty((3, len(order)), np.int64)
    shares = np.zeros(m, np.int64)
    touched = np.empty(m, np.int64)
    pairs = 0
    for i in range(n):
        count = 0
        for run in order[begins[i] : ends[i]]:
            j = runs[1, run]
            if shares[j] == 0:
                touched[count] = j
                count += 1
            shares[j] += runs[2, run]
        for j in touched[:count]:
            first[pairs], second[pairs], shared[pairs] = i, j, shares[j]
            pairs += 1
            shares[j] = 0
    return areas_a, areas_b, first[:pairs], second[:pairs], shared[:pairs]


@jit
def _of_masks(truth: Any, pred: Any, size: int) -> Any:
    """Pairs of masks that share pixels, and how many.

    The pixels are cut into chunks. Each run of `b` is entered in the chunks it lies in; each run
    of `a` looks into those it lies in: every shared pixel is seen once for each pair.
    """
    a_starts, a_lengths, a_offsets = truth
    b_starts, b_lengths, b_offsets = pred
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
        for other in touched[:count]:
            first.append(mask)
            second.append(other)
            shared.append(shares[other])
            shares[other] = 0
    return np.array(first, np.int64), np.array(second, np.int64), np.array(shared, np.int64)
