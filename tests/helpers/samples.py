"""Samples for calibration: touching cells with noisy flows."""

from __future__ import annotations

import numpy as np

from flowseg import competition_score, flows_to_labels, labels_to_flows
from flowseg.arrays.rle import Masks
from flowseg.config.schema import CellTypeSettings
from flowseg.evaluation.threshold_grid import Sample, ThresholdGrid
from flowseg.metrics.competition import outside_crowd

CELL = CellTypeSettings(diameter=12.0)
GRID = ThresholdGrid((0.5, 0.0, -0.5, -1.0), (0.2, 0.4, 0.8, 0.0), (0, 15, 40, 70))


def sample(seed: int, name: str = "a", group: str | None = None, shift: float = 0.0) -> Sample:
    """Touching cells, their flows and logits noisy; cellprob is `shift` too low."""
    rng = np.random.default_rng(seed)
    shape = (70, 80)
    points = rng.uniform((0, 0), shape, size=(35, 2))
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1])
    labels = np.where(distance.min(axis=-1) < 7, distance.argmin(axis=-1) + 1, 0)
    flows = labels_to_flows(labels) + rng.normal(0, 0.25, (2, *shape)).astype(np.float32)
    depth = 7 - distance.min(axis=-1)
    cellprob = (depth / 3 + rng.normal(0, 0.4, shape) - shift).astype(np.float32)
    return Sample(
        image_id=name,
        cell_type="blob",
        group=group or name,
        truth=Masks.from_labels(labels),
        flows=flows,
        cellprob=cellprob,
    )


def score_directly(one: Sample, cell: CellTypeSettings) -> float:
    """The score of a sample's labels, computed without the grid."""
    labels = flows_to_labels(
        one.flows,
        one.cellprob,
        cellprob_threshold=cell.cellprob_threshold,
        flow_threshold=cell.flow_threshold,
        min_size=cell.min_size,
    )
    found = Masks.from_labels(labels)
    if one.crowd is not None:
        found = found.select(outside_crowd(found, one.truth, one.crowd))
    return competition_score(one.truth, found)
