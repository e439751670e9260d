"""Out-of-fold scores: every image by the network not trained on it; thresholds are calibrated."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.data.folds import TRAIN_ONLY
from flowseg.data.record import Record
from flowseg.evaluation.calibration import Calibration, bootstrap_interval, calibrate
from flowseg.evaluation.threshold_grid import Sample
from flowseg.inference.auto_scale import resolve_settings
from flowseg.inference.flow_field import FlowField, load_fields, save_fields
from flowseg.inference.options import SegmentOptions, settings_for
from flowseg.inference.pipeline import Outcome, on_device
from flowseg.inference.segmenter import Segmenter, preprocess
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.tables import write_table
from flowseg.network.checkpoint import load_network, save_network
from flowseg.reports.text import text_table
from flowseg.training.plan import Plan
from flowseg.training.run import TrainResult
from flowseg.training.run_folder import (
    CROSS_VALIDATION,
    OUT_OF_FOLD_FLOWS,
    OUT_OF_FOLD_SCORES,
    write_summary,
)


class OutOfFold(NamedTuple):
    """The scores of one image by the network not trained on it; a row of `out_of_fold.csv`."""

    id: str
    cell_type: str
    group: str
    fold: int
    """The fold that was validated on it."""
    named: str
    """The cell type that the network predicts."""
    score: float
    """Competition score with ``config.tta`` fold test-time augmentation and the uncalibrated
    thresholds. Diameter and thresholds are those of the true cell type, whatever `named` is."""
    calibrated_score: float
    """With thresholds that were tuned on the images of other groups."""


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """A finished cross validation."""

    folder: Path
    """Holds a run's folder for each fold; `flowseg predict --model` takes it as an ensemble."""
    folds: tuple[TrainResult, ...]
    images: tuple[OutOfFold, ...]
    """In order of the ids."""
    calibration: Calibration
    """The thresholds that are now on the cards, and how they were found."""
    tta: int
    """Views of each image that were averaged (test-time augmentation)."""


def score_out_of_fold(
    out: Path, plans: list[Plan], results: list[TrainResult], device: str
) -> CrossValidation:
    """Score every image by the network that was not trained on it, and calibrate."""
    config, fold_of = plans[0].config, plans[0].folds
    records = [r for r in plans[0].records if fold_of[r.image_id] != TRAIN_ONLY]
    named = _predict(out, plans, results, device)
    # Not from the thresholds of the cards: an interrupted calibration may have changed them.
    calibration = calibrate(_samples(out, records), config.cell_types, config.seed)
    for result in results:
        _calibrate_card(result.checkpoint, calibration)
    images = tuple(
        OutOfFold(
            id=record.image_id,
            cell_type=record.cell_type,
            group=record.group,
            fold=fold_of[record.image_id],
            named=named[record.image_id],
            score=score,
            calibrated_score=calibrated_score,
        )
        for record in records
        for score, calibrated_score in [calibration.scores[record.image_id]]
    )
    validated = CrossValidation(
        folder=out, folds=tuple(results), images=images, calibration=calibration, tta=config.tta
    )
    _write(validated)
    return validated


def report(result: CrossValidation, seed: int = 0) -> str:
    """A table of the out-of-fold scores: by cell type, then of all images.

    The interval is the 95% bootstrap interval of the mean over images. "calibrated" is the score
    with thresholds that were tuned on images of other groups.
    """
    rng = np.random.default_rng(seed)
    header = ["out of fold", "images", "score", "95% interval", "calibrated", "type named"]
    rows = []
    for name in [*result.calibration.tunings, "all"]:
        images = [image for image in result.images if name in (image.cell_type, "all")]
        scores = [image.score for image in images]
        low, high = bootstrap_interval(scores, rng)
        calibrated = np.mean([image.calibrated_score for image in images])
        named = np.mean([image.named == image.cell_type for image in images])
        interval = f"{low:.4f} to {high:.4f}"
        values = f"{np.mean(scores):.4f}", interval, f"{calibrated:.4f}", f"{named:.0%}"
        rows.append((name, len(images), *values))
    views = f"(averages of {result.tta} views)" if result.tta > 1 else "(one view)"
    return f"{text_table(rows, header)}\n{views}"


def _predict(
    out: Path, plans: list[Plan], results: list[TrainResult], device: str
) -> dict[str, str]:
    """Store each image's out-of-fold flow field; the cell type predicted for it."""
    folder = ensure_writable_folder(out / OUT_OF_FOLD_FLOWS)
    named = {}
    total = sum(len(plan.validation) for plan in plans)
    with tqdm(total=total, desc="out of fold", unit="image") as bar:
        for plan, result in zip(plans, results, strict=True):
            precision, tta = plan.config.training.precision, plan.config.tta
            segmenter = Segmenter.load(result.checkpoint, device, precision, tta=tta)
            outcomes = _out_of_fold(segmenter, plan.validation, folder)
            with closing(outcomes):
                for outcome in outcomes:
                    named[outcome.item.image_id] = outcome.get()
                    bar.update()
    return named


def _out_of_fold(
    segmenter: Segmenter, records: Iterable[Record], folder: Path
) -> Generator[Outcome[Record, str], None, None]:
    """Store the flow field of each image; the cell type predicted for it."""

    def read(record: Record) -> tuple[Record, NDArray[np.float32]]:
        return record, preprocess(segmenter, record.image())

    def compute(job: tuple[Record, NDArray[np.float32]]) -> tuple[Record, str, FlowField]:
        record, grey = job
        name, _ = resolve_settings(segmenter, grey, SegmentOptions())
        settings = settings_for(segmenter.card, record.cell_type)
        return record, name, segmenter.predict_flows(grey, settings)

    def write(job: tuple[Record, str, FlowField]) -> str:
        record, name, field = job
        save_fields(folder / f"{record.image_id}.npz", field.flows, field.cellprob)
        return name

    return on_device(
        segmenter, records, read, compute, write, lambda record: record.shape[0] * record.shape[1]
    )


def _samples(out: Path, records: list[Record]) -> Iterator[Sample]:
    for record in records:
        flows, cellprob = load_fields(out / OUT_OF_FOLD_FLOWS / f"{record.image_id}.npz")
        yield Sample(
            image_id=record.image_id,
            cell_type=record.cell_type,
            group=record.group,
            truth=record.masks(),
            flows=flows,
            cellprob=cellprob,
            crowd=record.crowd_masks(),
        )


def _calibrate_card(path: Path, calibration: Calibration) -> None:
    """Put the calibrated thresholds on a checkpoint's card; its diameters stay."""
    network, card = load_network(path)
    cells = {
        name: replace(calibration.cell_types[name], diameter=cell.diameter)
        for name, cell in card.cell_types.items()
    }
    provenance = dict(card.provenance) | {"calibration": calibration.to_mapping()}
    save_network(path, network.state_dict(), replace(card, cell_types=cells, provenance=provenance))


def _write(result: CrossValidation) -> None:
    """The score of every image, and last the summary: a folder that has one is finished."""
    write_table(result.folder / OUT_OF_FOLD_SCORES, pd.DataFrame(result.images))
    results = {
        "validation_score": float(np.mean([image.calibrated_score for image in result.images])),
        "folds": len(result.folds),
        "tta": result.tta,
        "calibration": result.calibration.to_mapping(),
    }
    write_summary(result.folder, CROSS_VALIDATION, results)
