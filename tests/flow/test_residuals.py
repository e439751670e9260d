"""Flow errors and scores of cells."""

from __future__ import annotations

import numpy as np
import pytest

from flowseg import FlowsegError, labels_to_flows
from flowseg.flow.residuals import flow_errors, instance_scores
from helpers.shapes import blobs


def test_errors_are_the_mean_squared_difference_per_id() -> None:
    rng = np.random.default_rng(1)
    labels = 3 * blobs(rng)
    flows = rng.standard_normal((2, *labels.shape)).astype(np.float32)
    difference = ((flows - labels_to_flows(labels)) ** 2).sum(axis=0)
    errors = flow_errors(labels, flows)
    assert errors.dtype == np.float32
    assert errors.shape == (labels.max(),)
    for name in range(1, labels.max() + 1):
        inside = labels == name
        if inside.any():
            assert errors[name - 1] == pytest.approx(difference[inside].mean(), rel=1e-5)
        else:
            assert np.isnan(errors[name - 1])


def test_own_flows_have_no_error_and_opposite_ones_four() -> None:
    labels = blobs(np.random.default_rng(2))
    labels[labels == 1] = 0
    flows = labels_to_flows(labels)
    present = np.unique(labels[labels > 0]) - 1
    assert np.all(flow_errors(labels, flows)[present] == 0)
    still = np.bincount(labels.ravel(), np.hypot(*flows).ravel() < 0.5)[1:]
    areas = np.bincount(labels.ravel())[1:]
    expected = 4 * (1 - still[present] / areas[present])
    assert np.allclose(flow_errors(labels, -flows)[present], expected, atol=1e-4)


def test_scores_fall_with_probability_and_with_error() -> None:
    labels = np.zeros((20, 60), dtype=np.int32)
    labels[5:15, 5:15], labels[5:15, 25:35], labels[5:15, 45:55] = 1, 2, 4
    flows = labels_to_flows(labels)
    flows[:, labels == 4] *= -1
    cellprob = np.where(labels == 2, 0.0, 8.0)
    sure, unsure, missing, wrong = instance_scores(labels, flows, cellprob)
    assert sure > 0.99
    assert unsure == pytest.approx(0.5)
    assert np.isnan(missing)
    assert wrong < 0.05


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(FlowsegError, match=r"labels must have the shape \(4, 5\)"):
        flow_errors(np.zeros((5, 4), dtype=int), np.zeros((2, 4, 5)))
    assert flow_errors(np.zeros((4, 5), dtype=int), np.zeros((2, 4, 5))).size == 0
