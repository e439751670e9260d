"""Grid search: the score of one image at every setting of a grid, from its flow field.

The dynamics run once for each cellprob threshold. The flow threshold and the minimum size only
select among the cells found, so each further setting costs one matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.jit import in_threads
from flowseg.arrays.rle import Masks
from flowseg.config.schema import CellTypeSettings
from flowseg.flow.representation import find_instances
from flowseg.metrics.competition import Contingency, compare, outside_crowd


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One image that the network was not trained on: its ground truth and its flow field."""

    image_id: str
    cell_type: str
    group: str
    """Images of one group (a well) are never both tuned on and scored."""
    truth: Masks
    """As annotated, overlaps kept."""
    flows: NDArray[np.floating]
    """(2, H, W) float16 or float32: (dy, dx), at the image's own size."""
    cellprob: NDArray[np.floating]
    """(H, W) float16 or float32: Logit of being a cell."""
    crowd: Masks | None = None
    """Its regions that are neither cells nor background, where there are any."""


@dataclass(frozen=True)
class ThresholdGrid:
    """A grid of thresholds and minimum sizes, each in an order in which neighbours are alike.

    A flow threshold of 0 keeps all cells, so it comes after the largest.
    """

    cellprob_thresholds: tuple[float, ...]
    flow_thresholds: tuple[float, ...]
    min_sizes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of values along each axis."""
        return len(self.cellprob_thresholds), len(self.flow_thresholds), len(self.min_sizes)

    def settings_at(self, index: Sequence[int], cell: CellTypeSettings) -> CellTypeSettings:
        """`cell` with the values at one index of the grid."""
        return replace(
            cell,
            cellprob_threshold=self.cellprob_thresholds[index[0]],
            flow_threshold=self.flow_thresholds[index[1]],
            min_size=self.min_sizes[index[2]],
        )

    def index_of(self, cell: CellTypeSettings) -> tuple[int, int, int]:
        """The index of the values of `cell`."""
        return (
            self.cellprob_thresholds.index(cell.cellprob_threshold),
            self.flow_thresholds.index(cell.flow_threshold),
            self.min_sizes.index(cell.min_size),
        )


def score_grid(sample: Sample, grid: ThresholdGrid) -> NDArray[np.float64]:
    """The competition score of one image at every setting of the grid: (C, F, S) float64.

    Exactly those of :func:`flowseg.flows_to_labels` run with each setting. Raises FlowsegError if
    shapes differ or a value of the flow field is not finite.
    """
    scores = np.empty(grid.shape)

    def score(k: int) -> None:
        threshold = grid.cellprob_thresholds[k]
        cells = find_instances(sample.flows, sample.cellprob, cellprob_threshold=threshold)
        all_cells = cells.keep_mask(0, 0)
        labels = cells.labels(all_cells)
        counted = np.ones(np.count_nonzero(all_cells), np.bool_)
        if sample.crowd is not None:
            counted = outside_crowd(Masks.from_labels(labels), sample.truth, sample.crowd)
        table = compare(sample.truth, labels)
        close = 2 * table.shared > table.unions()  # others match at no threshold
        table = replace(
            table, truth=table.truth[close], pred=table.pred[close], shared=table.shared[close]
        )
        for i, flow_threshold in enumerate(grid.flow_thresholds):
            for j, min_size in enumerate(grid.min_sizes):
                keep = cells.keep_mask(flow_threshold, min_size)[all_cells] & counted
                scores[k, i, j] = _select_predictions(table, keep).counts().score

    in_threads(score, len(grid.cellprob_thresholds))
    return scores


def _select_predictions(table: Contingency, keep: NDArray[np.bool_]) -> Contingency:
    """The table of the predictions where `keep`, (M,) bool, is true."""
    pairs = keep[table.pred]
    return replace(
        table,
        pred_areas=table.pred_areas[keep],
        truth=table.truth[pairs],
        pred=(np.cumsum(keep) - 1)[table.pred[pairs]],
        shared=table.shared[pairs],
    )
