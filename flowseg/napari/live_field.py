"""A flow field that is kept, so that thresholds move without the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import clear_border, renumber
from flowseg.flow.representation import Instances, find_instances


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What decides which instances of a flow field are shown."""

    cellprob_threshold: float
    flow_threshold: float
    min_size: int
    exclude_border: bool = False


class LiveField:
    """The flow field of one image, and its labels at any thresholds.

    The instances at the last cellprob threshold are kept: only a move of that one follows the flows
    again.

    Parameters
    ----------
    flows : ndarray, shape (2, H, W), float32
        Order (dy, dx), of about unit length inside cells.
    cellprob : ndarray, shape (H, W), float32
        Logits.
    """

    def __init__(self, flows: NDArray[np.float32], cellprob: NDArray[np.float32]) -> None:
        self.flows = flows
        self.cellprob = cellprob
        self._found: tuple[float, Instances] | None = None

    def labels(self, thresholds: Thresholds) -> NDArray[np.int32]:
        """The instances that pass: (H, W) int32, 0 = background, ids 1 ... N."""
        found = self._found  # taken once: another thread may replace it meanwhile
        if found is None or found[0] != thresholds.cellprob_threshold:
            level = thresholds.cellprob_threshold
            found = level, find_instances(self.flows, self.cellprob, cellprob_threshold=level)
            self._found = found
        instances = found[1]
        keep = instances.keep_mask(thresholds.flow_threshold, thresholds.min_size)
        labels = instances.labels(keep)
        return renumber(clear_border(labels)) if thresholds.exclude_border else labels
