"""Flow residuals, flow errors and scores of instances: how well labels agree with flows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg.arrays.jit import jit
from flowseg.arrays.labels import check_labels
from flowseg.errors import FlowsegError
from flowseg.flow.diffusion import diffuse
from flowseg.flow.runs import find_runs, group

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]


def check_flows(flows: ArrayLike, cellprob: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """`flows` and `cellprob` as contiguous float32 arrays, or an error that says what is wrong.

    Raises
    ------
    FlowsegError
        Where a shape is wrong, the shapes differ, or a value is not finite.
    """
    field = np.ascontiguousarray(flows, dtype=np.float32)
    if field.ndim != 3 or field.shape[0] != 2:
        raise FlowsegError(f"flows must have the shape (2, H, W), not {field.shape}")
    prob = np.ascontiguousarray(
        np.zeros(field.shape[1:]) if cellprob is None else cellprob, dtype=np.float32
    )
    if prob.shape != field.shape[1:]:
        raise FlowsegError(
            f"cellprob must have the shape {field.shape[1:]} of the flows, not {prob.shape}"
        )
    for name, values in (("flows", field), ("cellprob", prob)):
        if not _all_finite(values.reshape(-1)):
            raise FlowsegError(f"{name} must be finite but has NaN or infinite values")
    return field, prob


def flow_errors(labels: ArrayLike, flows: ArrayLike) -> Floats:
    """Mean squared difference between the flows and those that the labels have.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background.
    flows : (2, H, W) float32
        Unit scale, (dy, dx).

    Returns
    -------
    errors : (N,) float32
        One for each id 1..N, N the largest id; 0 perfect, about 2 unrelated, 4 opposite; NaN for an
        id without pixels.

    Notes
    -----
    The flow error of Cellpose (Stringer et al., Nature Methods 18, 2021, `flow_error`), with flows
    of unit length.
    """
    image = check_labels(labels)
    field, _ = check_flows(flows)
    if field.shape[1:] != image.shape:
        raise FlowsegError(
            f"labels must have the shape {field.shape[1:]} of the flows, not {image.shape}"
        )
    runs = find_runs(image)
    order, offsets = group(runs.components, runs.total)
    table = np.stack((runs.rows, runs.starts, runs.stops, runs.ids))[:, order]
    cells = table[3, offsets[:-1]]
    top = int(image.max(initial=0))
    total = np.bincount(cells, flow_residuals(table, offsets, field), top + 1)[1:]
    area = np.bincount(table[3], table[2] - table[1], top + 1)[1:]
    errors = np.full(top, np.nan, dtype=np.float32)
    np.divide(total, area, out=errors, where=area > 0, casting="same_kind")
    return errors


def flow_residuals(table: Ints, offsets: Longs, flows: Floats) -> NDArray[np.float64]:
    """Sum of squared differences between the flows and those that connected components have.

    Parameters
    ----------
    table : (4, R) int32
        Row, start, stop, and cell of each run, by component, in reading order within each.
    offsets : (P + 1,) int64
        Where each component's runs begin.
    flows : (2, H, W) float32

    Returns
    -------
    sums : (P,) float64
    """
    ends = np.cumsum(table[2] - table[1], dtype=np.int64)
    columns = ends - (table[2] - table[1])
    expected = np.zeros((2, int(ends[-1]) if ends.size else 0), dtype=np.float32)
    diffuse(table, offsets, columns, expected)
    sums: NDArray[np.float64] = _sum_squares(table, offsets, columns, expected, flows)
    return sums


def instance_scores(labels: ArrayLike, flows: ArrayLike, cellprob: ArrayLike) -> Floats:
    """Confidence of each instance: mean probability of its pixels, times the fit of its flows.

    Returns
    -------
    scores : (N,) float32
        One for each id 1..N, from 0 to 1; NaN for an id without pixels.

    Notes
    -----
    This package's own: the probability is the sigmoid of cellprob, and the fit is 1 minus a quarter
    of the flow error, which is 4 where the flows are opposite.
    """
    image = check_labels(labels)
    _, prob = check_flows(flows, cellprob)
    fit = 1.0 - 0.25 * flow_errors(image, flows)
    probability: NDArray[np.float64] = _mean_probability(image, prob)
    scores: Floats = (probability * np.clip(fit, 0.0, 1.0)).astype(np.float32)
    return scores


@jit
def _all_finite(values: Floats) -> Any:
    total = np.float32(0.0)
    for k in range(values.size):
        total += values[k] * np.float32(0.0)
    return total == 0.0


@jit
def _sum_squares(table: Any, offsets: Any, columns: Any, expected: Any, flows: Any) -> Any:
    sums = np.zeros(offsets.size - 1, np.float64)
    for p in range(sums.size):
        for k in range(offsets[p], offsets[p + 1]):
            y, start = table[0, k], table[1, k]
            for x in range(start, table[2, k]):
                dy = flows[0, y, x] - expected[0, columns[k] + x - start]
                dx = flows[1, y, x] - expected[1, columns[k] + x - start]
                sums[p] += dy * dy + dx * dx
    return sums


@jit
def _mean_probability(labels: Any, cellprob: Any) -> Any:
    count = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            count = max(count, labels[y, x])
    totals = np.zeros(count + 1, np.float64)
    areas = np.zeros(count + 1, np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            k = labels[y, x]
            totals[k] += 1.0 / (1.0 + np.exp(-np.float64(cellprob[y, x])))
            areas[k] += 1
    means = np.empty(count, np.float64)
    for k in range(count):
        means[k] = totals[k + 1] / areas[k + 1] if areas[k + 1] > 0 else np.nan
    return means
