"""Cell type and mean diameter, predicted from the centre of an image."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import fastremap
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from flowseg.arrays.labels import equivalent_diameter
from flowseg.config.schema import CellTypeSettings
from flowseg.flow.residuals import instance_scores
from flowseg.inference.ensemble import Ensemble
from flowseg.inference.flow_field import compute_labels, to_host
from flowseg.inference.options import SegmentOptions, known_diameter, settings_for
from flowseg.inference.rescale import rescale, shape_at_zoom
from flowseg.inference.tiles import predict_rescaled
from flowseg.network.checkpoint import Card
from flowseg.network.size_model import SizeModel

Floats = NDArray[np.float32]

_CROP = 512
"""Edge of the central crop, in pixels at the networks' scale."""

_MAX_PASSES = 4
_CONVERGED = 1.05
"""Ratio of a diameter and the next below which no further pass follows."""


class Model(Protocol):
    """Networks and their card, as a :class:`flowseg.Segmenter` holds them."""

    card: Card
    ensemble: Ensemble
    size_model: SizeModel | None


def resolve_settings(
    model: Model, grey: Floats, options: SegmentOptions
) -> tuple[str, CellTypeSettings]:
    """The cell type and the settings of an image, predicted as far as the options leave them open.

    The image (H, W), or (2, H, W) with nuclei, is normalised; the settings have a diameter: where
    neither the options nor the card have one, it is measured.
    """
    name = classify_cell_type(model, grey) if options.cell_type is None else options.cell_type
    settings = settings_for(model.card, name, options)
    if options.diameter == "auto" or settings.diameter is None:
        settings = replace(settings, diameter=estimate_diameter(model, grey, settings))
    return name, settings


def classify_cell_type(model: Model, grey: Floats) -> str:
    """The most probable cell type of a normalised grey image, rescaled for each type in turn.

    Types whose diameters are within a tenth of each other share a scale.
    """
    names = list(model.card.cell_types)
    if len(names) == 1:
        return names[0]
    ensemble = model.ensemble
    crops: dict[tuple[int, int], list[Floats]] = {}
    for diameter in _apart(_diameters(model), 1.1):
        # The centre is enough, and costs less than the segmentation of the whole.
        crop = _central_crop(model, grey, diameter)
        shape = shape_at_zoom(crop.shape[-2:], ensemble.diameter / diameter, ensemble.stride)
        crops.setdefault(shape, []).append(rescale(crop, shape))
    log_probabilities = np.zeros(len(names))
    for batch in crops.values():
        for field in ensemble.predict(np.stack(batch)):
            log_probabilities += log_softmax(field.cell_type)
    return names[int(np.argmax(log_probabilities))]


def estimate_diameter(model: Model, grey: Floats, settings: CellTypeSettings) -> float:
    """The mean cell diameter of a normalised grey image, measured on the segmented centre.

    The centre of the image is segmented at the diameter of each cell type of the card, at half and
    at twice of it, and the most confident result is taken: the one whose instance scores, weighted
    by area, sum to the largest share of all pixels. From there the diameter of the instances is the
    next guess, until it converges. The result is the mean of the diameters of discs of the
    instances' areas, in pixels; where no cell is found that of the settings. With a size model of
    Cellpose that is the only first guess; for a card without diameters see `_at_own_scale`.
    """
    if not _diameters(model):
        return _at_own_scale(model, grey, settings)
    best, diameter = 0.0, known_diameter(settings)
    by_style = _by_style(model, grey, settings)
    for guess in _guesses(model) if by_style is None else [by_style]:
        confidence, measured = _measure(model, grey, replace(settings, diameter=guess))
        if confidence > best:
            best, diameter = confidence, measured
    for _ in range(_MAX_PASSES if best > 0 else 0):
        confidence, measured = _measure(model, grey, replace(settings, diameter=diameter))
        if confidence == 0:
            break
        ratio, diameter = measured / diameter, measured
        if max(ratio, 1 / ratio) < _CONVERGED:
            break
    return diameter


def _at_own_scale(model: Model, grey: Floats, settings: CellTypeSettings) -> float:
    """The diameter as a network sees it that knows cells of any size, of a card without diameters.

    It is measured on the image at its own resolution, once more at the diameter that was found, and
    weighted by itself: specks that look like cells are many, but small, and weights of area make it
    too large where cells differ in size. Enlarging the image until specks are as large as cells, as
    each further pass would, leads astray.
    """
    own = model.ensemble.diameter
    for guess in (own, 2 * own, own / 2):
        areas, _ = _find_cells(model, grey, replace(settings, diameter=guess))
        if areas.size:
            break
    else:
        return own
    found = _weighted_diameter(areas)
    areas, _ = _find_cells(model, grey, replace(settings, diameter=found))
    return _weighted_diameter(areas) if areas.size else found


def _weighted_diameter(areas: NDArray[np.int64]) -> float:
    diameters = equivalent_diameter(areas)
    return float(np.average(diameters, weights=diameters))


def _by_style(model: Model, grey: Floats, settings: CellTypeSettings) -> float | None:
    """What the size model says of the centre's style, if there is one."""
    if model.size_model is None:
        return None
    diameter = known_diameter(settings)
    crop, ensemble = _central_crop(model, grey, diameter), model.ensemble
    shape = shape_at_zoom(crop.shape[-2:], ensemble.diameter / diameter, ensemble.stride)
    everything = (slice(0, shape[0]), slice(0, shape[1]))
    styles = ensemble.styles([(rescale(crop, shape), everything)])
    return None if styles is None else model.size_model.diameter(to_host(styles[0])[0])


def _measure(model: Model, grey: Floats, settings: CellTypeSettings) -> tuple[float, float]:
    """Confidence of the centre's instances, as a share of its pixels, and their diameter."""
    areas, confidence = _find_cells(model, grey, settings)
    if not areas.size:
        return 0.0, known_diameter(settings)
    return confidence, float(equivalent_diameter(areas).mean())


def _find_cells(
    model: Model, grey: Floats, settings: CellTypeSettings
) -> tuple[NDArray[np.int64], float]:
    """The areas of the centre's instances, and their confidence as a share of its pixels."""
    diameter = known_diameter(settings)
    crop = _central_crop(model, grey, diameter)
    labels, field = compute_labels(
        predict_rescaled(model.ensemble, crop, diameter), crop.shape[-2:], settings
    )
    ids, areas = fastremap.unique(labels, return_counts=True)
    areas = areas[ids > 0].astype(np.int64)
    if not areas.size:
        return areas, 0.0
    confidence = instance_scores(labels, field.flows, field.cellprob) * areas
    return areas, float(confidence.sum() / labels.size)


def _diameters(model: Model) -> list[float]:
    """The diameters of the card's cell types as far as it has any, ascending."""
    return sorted({c.diameter for c in model.card.cell_types.values() if c.diameter is not None})


def _guesses(model: Model) -> list[float]:
    """From half the smallest diameter of the card to twice the largest, a third apart."""
    return _apart(sorted(factor * d for factor in (0.5, 1.0, 2.0) for d in _diameters(model)), 1.3)


def _apart(diameters: list[float], ratio: float) -> list[float]:
    """Those of ascending diameters that exceed the one taken before by that ratio."""
    taken: list[float] = []
    for diameter in diameters:
        if not taken or diameter > ratio * taken[-1]:
            taken.append(diameter)
    return taken


def _central_crop(model: Model, grey: Floats, diameter: float) -> Floats:
    edge = math.ceil(_CROP * diameter / model.ensemble.diameter)
    top, left = (max(0, (length - edge) // 2) for length in grey.shape[-2:])
    return np.ascontiguousarray(grey[..., top : top + edge, left : left + edge])
