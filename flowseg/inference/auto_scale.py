"""What a glance at the middle of an image tells: which cells they are, and how large."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from flowseg.arrays.labels import equivalent_diameter
from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.flow.residuals import scores
from flowseg.inference.ensemble import Ensemble
from flowseg.inference.flow_field import DeviceField, FlowField
from flowseg.network.checkpoint import Card

__all__ = ["classify_cell_type", "estimate_diameter", "known_diameter"]

_EDGE = 512
"""Of the middle, at the networks' scale."""

_PASSES = 4
_SETTLED = 1.05


class FieldPredictor(Protocol):
    """What is asked of a segmenter here."""

    card: Card
    ensemble: Ensemble

    def predict_scaled(self, grey: NDArray[np.float32], settings: CellTypeSettings) -> DeviceField:
        """The flow field at the networks' scale."""

    def compute_labels(
        self, field: DeviceField, shape: tuple[int, ...], settings: CellTypeSettings
    ) -> tuple[NDArray[np.int32], FlowField]:
        """The instances of a field at an image's own size, and the field at that size."""

    def settings_for(self, name: str) -> CellTypeSettings:
        """What a cell type needs."""


def classify_cell_type(segmenter: FieldPredictor, grey: NDArray[np.float32]) -> str:
    """The cell type of a normalised grey image, seen at each type's scale in turn."""
    names = list(segmenter.card.cell_types)
    if len(names) == 1:
        return names[0]
    votes = np.zeros(len(names))
    for diameter in sorted({known_diameter(segmenter.settings_for(name)) for name in names}):
        settings = CellTypeSettings(diameter=diameter)
        # The middle is enough to tell, and the type costs less than the instances.
        votes += log_softmax(
            segmenter.predict_scaled(_middle(segmenter, grey, settings), settings).cell_type
        )
    return names[int(np.argmax(votes))]


def estimate_diameter(
    segmenter: FieldPredictor, grey: NDArray[np.float32], settings: CellTypeSettings
) -> float:
    """The mean cell diameter of a normalised grey image, measured on what is found.

    The middle of the image is segmented at the diameter of each cell type of the card, at half and
    at twice of it, and the surest result is taken: the one whose cells' scores sum to the largest
    share of all pixels. From there the diameter of the found cells is the next guess, until it
    settles.

    Parameters
    ----------
    segmenter : FieldPredictor
    grey : ndarray, shape (H, W), float32
        From :func:`flowseg.arrays.intensity.normalize`.
    needs : CellType
        The thresholds; its diameter is the answer where no cell is found.

    Returns
    -------
    float
        Mean of the diameters of discs of the cells' areas, in pixels.
    """
    best, diameter = 0.0, known_diameter(settings)
    for guess in _guesses(segmenter):
        sure, measured = _measure(segmenter, grey, replace(settings, diameter=guess))
        if sure > best:
            best, diameter = sure, measured
    for _ in range(_PASSES if best > 0 else 0):
        sure, measured = _measure(segmenter, grey, replace(settings, diameter=diameter))
        if sure == 0:
            break
        ratio, diameter = measured / diameter, measured
        if max(ratio, 1 / ratio) < _SETTLED:
            break
    return diameter


def known_diameter(settings: CellTypeSettings) -> float:
    """The diameter that images of a cell type need, or an error where it is unknown."""
    if settings.diameter is None:
        raise FlowsegError("the diameter of this cell type is unknown", remedy="give one")
    return settings.diameter


def _measure(
    segmenter: FieldPredictor, grey: NDArray[np.float32], settings: CellTypeSettings
) -> tuple[float, float]:
    """How sure the cells of the middle are, as a share of its pixels, and their diameter."""
    middle = _middle(segmenter, grey, settings)
    labels, field = segmenter.compute_labels(
        segmenter.predict_scaled(middle, settings), middle.shape, settings
    )
    areas = np.bincount(labels.reshape(-1))[1:]
    if not areas.size:
        return 0.0, known_diameter(settings)
    sure = scores(labels, field.flows, field.cellprob) * areas
    return float(sure.sum() / labels.size), float(equivalent_diameter(areas).mean())


def _guesses(segmenter: FieldPredictor) -> list[float]:
    """From half the smallest diameter of the card to twice the largest, a third apart."""
    known = sorted(
        {known_diameter(segmenter.settings_for(name)) for name in segmenter.card.cell_types}
    )
    guesses: list[float] = []
    for guess in sorted(factor * diameter for factor in (0.5, 1.0, 2.0) for diameter in known):
        if not guesses or guess > 1.3 * guesses[-1]:
            guesses.append(guess)
    return guesses


def _middle(
    segmenter: FieldPredictor, grey: NDArray[np.float32], settings: CellTypeSettings
) -> NDArray[np.float32]:
    edge = math.ceil(_EDGE * known_diameter(settings) / segmenter.ensemble.diameter)
    top, left = (max(0, (length - edge) // 2) for length in grey.shape)
    return np.ascontiguousarray(grey[top : top + edge, left : left + edge])
