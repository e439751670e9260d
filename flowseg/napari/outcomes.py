"""Two segmentations of one image as a picture of hits and mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels, renumber
from flowseg.formats.cell_table import measure_cells
from flowseg.metrics.competition import HIT, MERGED, MISSED, SPLIT, SPURIOUS, compare

COLOURS = {
    HIT: "#4fae8e",
    MISSED: "#e83444",
    SPURIOUS: "#3082f5",
    SPLIT: "#eca410",
    MERGED: "#ba55dc",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class OutcomeImage:
    """Where cells are hit, missed, spurious, split and merged, at an IoU of one half."""

    image: NDArray[np.uint8]
    """(H, W): 0 where no cell is, else 1 + the outcome of the predicted cell, or of the true one
    where none is predicted."""
    mistakes: list[tuple[float, float]]
    """Centres (y, x) of cells that are no hits, from top to bottom; a missed cell's own."""
    score: float
    """The competition's."""
    summary: str
    """The counts in words."""


def outcome_image(truth: NDArray[Any], pred: NDArray[Any]) -> OutcomeImage:
    """Compare two label images (H, W).

    Raises
    ------
    FlowsegError
        For arrays that are no label images, or differ in their shapes.
    """
    truth, pred = (renumber(check_labels(labels)) for labels in (truth, pred))
    table = compare(truth, pred)
    outcomes, mistakes = table.outcomes(), table.mistakes()
    true, predicted = (
        np.r_[0, 1 + of].astype(np.uint8)[labels]
        for of, labels in ((outcomes.truth, truth), (outcomes.pred, pred))
    )
    places = []
    for labels, of, kinds in (
        (truth, outcomes.truth, (MISSED, SPLIT)),
        (pred, outcomes.pred, (SPURIOUS, MERGED)),
    ):
        cells = measure_cells(labels)
        wrong = np.isin(of, kinds)
        places += list(zip(cells["y"][wrong].tolist(), cells["x"][wrong].tolist(), strict=True))
    hits = int((outcomes.truth == HIT).sum())
    return OutcomeImage(
        image=np.where(pred > 0, predicted, true),
        mistakes=sorted(places),
        score=table.counts().score,
        summary=f"{hits} hit, {mistakes.missed} missed, {mistakes.spurious} spurious, "
        f"{mistakes.split} split, {mistakes.merged} merged",
    )
