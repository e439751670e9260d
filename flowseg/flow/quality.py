"""How well each cell agrees with the flows it came from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg._jit import jit
from flowseg.errors import FlowsegError
from flowseg.flow.diffusion import labels_to_flows
from flowseg.labels import check_labels

__all__ = ["check_flows", "flow_errors", "scores"]

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
    """Mean squared difference between the flows and those the cells themselves would have.

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
    """
    image = check_labels(labels)
    field, _ = check_flows(flows)
    if field.shape[1:] != image.shape:
        raise FlowsegError(
            f"labels must have the shape {field.shape[1:]} of the flows, not {image.shape}"
        )
    return _errors(image, field, labels_to_flows(image))


def scores(labels: ArrayLike, flows: ArrayLike, cellprob: ArrayLike) -> Floats:
    """How sure each cell is: mean probability of its pixels, times how well its flows agree.

    Returns
    -------
    scores : (N,) float32
        One for each id 1..N, from 0 to 1; NaN for an id without pixels.
    """
    image = check_labels(labels)
    _, prob = check_flows(flows, cellprob)
    agreement = 1.0 - 0.25 * flow_errors(image, flows)
    return (_mean_probability(image, prob) * np.clip(agreement, 0.0, 1.0)).astype(np.float32)


@jit
def _all_finite(values: Floats) -> bool:
    total = np.float32(0.0)
    for k in range(values.size):
        total += values[k] * np.float32(0.0)
    return total == 0.0


@jit
def _errors(labels: Any, flows: Any, target: Any) -> Any:
    count = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            count = max(count, labels[y, x])
    totals = np.zeros(count + 1, np.float64)
    areas = np.zeros(count + 1, np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            k = labels[y, x]
            if k > 0:
                dy = np.float64(flows[0, y, x]) - target[0, y, x]
                dx = np.float64(flows[1, y, x]) - target[1, y, x]
                totals[k] += dy * dy + dx * dx
                areas[k] += 1
    errors = np.empty(count, np.float32)
    for k in range(count):
        errors[k] = totals[k + 1] / areas[k + 1] if areas[k + 1] > 0 else np.nan
    return errors


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
