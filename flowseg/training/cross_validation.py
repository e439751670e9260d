"""Cross validation: a network for each fold, out-of-fold scores, calibrated thresholds."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.config.schema import Config
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
from flowseg.network.checkpoint import load_network, read_card, save_network
from flowseg.reports.text import text_table
from flowseg.training.budget import within_budget
from flowseg.training.distributed import distributed_session, from_rank_zero, on_rank_zero
from flowseg.training.plan import NONE, Plan, check_images, plan_folds
from flowseg.training.pretraining import pretrained
from flowseg.training.run import TrainResult, train_plan
from flowseg.training.run_folder import (
    CONFIG,
    CROSS_VALIDATION,
    OUT_OF_FOLD_FLOWS,
    OUT_OF_FOLD_SCORES,
    TRAINING,
    Resume,
    fold_folder,
    open_run_folder,
    write_summary,
)
from flowseg.training.tensorboard import load_writer

_log = logging.getLogger(__name__)


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


def cross_validate(
    config: Config,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pretrain: str | None = None,
    train_only: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: Resume = False,
    tensorboard: bool = False,
) -> CrossValidation:
    """Train a network for each fold, score them out of fold, and calibrate their thresholds.

    Parameters
    ----------
    config, data, out, pretrain, train_only, device, resume, tensorboard
        As for :func:`flowseg.train`; ``config.data.fold`` does not matter. The LIVECell stage is
        shared by the folds and kept beside `out`.

    Returns
    -------
    CrossValidation

    Raises
    ------
    FlowsegError
        As for :func:`flowseg.train`; what a later fold lacks is refused before the first starts.

    Notes
    -----
    Out of fold ``config.tta`` views of each image are averaged. Folds are validated after their
    last epoch only, without augmentation: a best epoch chosen on the images that are scored would
    flatter the score.
    """
    if tensorboard:
        load_writer()
    config = replace(config, data=replace(config.data, fold=0))
    out = Path(out)
    with distributed_session(device) as rank_device:
        # All folds are planned before the first is trained: what cannot be trained is refused now.
        plans = plan_folds(config, Path(data), pretrain, train_only)
        images = [*plans[0].records, *(record for plan in plans for record in plan.extra)]
        from_rank_zero(lambda: check_images(images))
        plans = list(map(_validated_last, within_budget(plans, out, rank_device, resume)))
        settings = replace(plans[0].config, cell_types=config.cell_types)
        origin = plans[0].origin(rank_device) | {"stage": CROSS_VALIDATION}
        with on_rank_zero(open_run_folder(out, settings, origin, resume=resume)):
            start = pretrained(plans[0], out, rank_device)
            _warn_of_leaks(start, config.data.extra)
            results = []
            for fold, plan in enumerate(plans):
                _log.info("fold %d of %d", fold, len(plans))
                result = train_plan(
                    replace(
                        plan,
                        pretrain=NONE if start is None else str(start),
                        runs=len(plans) - fold,
                    ),
                    fold_folder(out, fold),
                    rank_device,
                    resume=from_rank_zero((fold_folder(out, fold) / CONFIG).is_file),
                    tensorboard=tensorboard,
                )
                results.append(result)
            return from_rank_zero(lambda: _evaluate(out, plans, results, str(rank_device)))


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


def _validated_last(plan: Plan) -> Plan:
    """The plan with a validation after the last epoch only, see the Notes of `cross_validate`."""
    schedule = replace(plan.config.training, validate_every=plan.config.training.epochs)
    return replace(plan, config=replace(plan.config, training=schedule))


def _evaluate(
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


def _warn_of_leaks(start: Path | None, extra: str | None) -> None:
    provenance = {} if start is None else read_card(start).provenance
    # Drawn images are none of those that are scored.
    if provenance.get("stage") == TRAINING and provenance.get("training_images"):
        _log.warning(
            "%s was trained on labelled images: if they are among these, "
            "the out-of-fold scores are too high",
            start,
        )
    if extra is not None and "{fold}" not in extra:
        _log.warning(
            "all folds share the extra images of %s: if a model labelled them that was trained on "
            "the images of a fold, the out-of-fold scores are too high",
            extra,
        )


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
