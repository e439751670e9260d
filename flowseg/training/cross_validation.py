"""All folds of a training, judged and tuned on what no network of theirs has learned from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from flowseg.arrays.intensity import normalize
from flowseg.config.schema import Config
from flowseg.data.folds import TRAIN_ONLY
from flowseg.data.record import Record
from flowseg.evaluation.calibration import Calibration, bootstrap_interval, calibrate
from flowseg.evaluation.threshold_grid import Sample
from flowseg.inference.auto_scale import resolve_settings
from flowseg.inference.flow_field import load_fields, save_fields
from flowseg.inference.options import SegmentOptions, settings_for
from flowseg.inference.segmenter import Segmenter
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.tables import write_table
from flowseg.network.checkpoint import load_network, read_card, save_network
from flowseg.reports.text import text_table
from flowseg.training.distributed import distributed_session, from_rank_zero, on_rank_zero
from flowseg.training.plan import NONE, check_images, plan
from flowseg.training.pretraining import pretrained
from flowseg.training.run import TrainResult, train
from flowseg.training.run_folder import (
    CONFIG,
    CROSS_VALIDATION,
    OUT_OF_FOLD_FLOWS,
    OUT_OF_FOLD_SCORES,
    TRAINING,
    fold_folder,
    open_run_folder,
    write_summary,
)
from flowseg.training.tensorboard import load_writer

__all__ = ["CrossValidation", "OutOfFold", "cross_validate", "report"]

_log = logging.getLogger(__name__)


class OutOfFold(NamedTuple):
    """One image, seen by the network that did not learn from it; a row of `out_of_fold.csv`.

    Attributes
    ----------
    id, cell_type, group : str
        Of the image.
    fold : int
        The fold that kept it back.
    named : str
        The cell type that the network takes it for.
    score : float
        The competition's, of the average of ``config.tta`` views, with the thresholds that the
        cell type began with. Scale and thresholds are those of the true cell type, whatever
        `named` says.
    calibrated_score : float
        With thresholds that were tuned on the images of other groups.
    """

    id: str
    cell_type: str
    group: str
    fold: int
    named: str
    score: float
    calibrated_score: float


@dataclass(frozen=True)
class CrossValidation:
    """What all folds came to.

    Attributes
    ----------
    folder : Path
        Holds a run's folder for each fold; `flowseg predict --model` takes it as an ensemble.
    folds : tuple of TrainResult
        In order.
    images : tuple of OutOfFold
        In order of the ids.
    calibration : Calibration
        The thresholds that are now on the cards, and how they were found.
    views : int
        Views of each image that were averaged.
    """

    folder: Path
    folds: tuple[TrainResult, ...]
    images: tuple[OutOfFold, ...]
    calibration: Calibration
    tta: int


def cross_validate(
    config: Config,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pretrain: str = "none",
    train_only: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
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
        For whatever the user can mend.

    Notes
    -----
    Out of fold ``config.tta`` views of each image are averaged. Folds are validated after their
    last epoch only, on one view: a best epoch chosen on the images that are scored would flatter
    the score.
    """
    if tensorboard:
        load_writer()
    with distributed_session(device) as where:
        return _cross_validate(
            config, Path(data), Path(out), pretrain, train_only, where, resume, tensorboard
        )


def _cross_validate(
    config: Config,
    data: Path,
    out: Path,
    pretrain: str,
    train_only: str | os.PathLike[str] | None,
    where: torch.device,
    resume: bool,
    tensorboard: bool,
) -> CrossValidation:
    """What one process does; only the first of several writes."""
    schedule = replace(config.training, validate_every=config.training.epochs)
    settings = replace(config, training=schedule, data=replace(config.data, fold=0))
    plans = [plan(settings, data, pretrain, train_only)]
    first = plans[0].config
    settings = replace(settings, network=first.network, data=first.data)
    configs = [
        replace(settings, data=replace(settings.data, fold=fold))
        for fold in range(settings.data.folds)
    ]
    # All folds are planned before the first is trained: what cannot be trained is refused now.
    plans += [plan(other, data, pretrain, train_only) for other in configs[1:]]
    extra = [record for planned in plans for record in planned.extra]
    from_rank_zero(lambda: check_images([*plans[0].records, *extra]))
    origin = plans[0].origin(pretrain, where) | {"stage": CROSS_VALIDATION}
    with on_rank_zero(open_run_folder(out, settings, origin, resume=resume)):
        start = pretrained(pretrain, first, data, out, where)
        _warn_of_leaks(start, config.data.extra)
        folds = []
        for fold, own in enumerate(configs):
            folder = fold_folder(out, fold)
            _log.info("fold %d of %d", fold, len(configs))
            folds.append(
                train(
                    own,
                    data,
                    folder,
                    pretrain=NONE if start is None else str(start),
                    train_only=train_only,
                    device=str(where),
                    resume=from_rank_zero((folder / CONFIG).is_file),
                    tensorboard=tensorboard,
                )
            )
        fold_of = plans[0].folds
        known = [record for record in plans[0].records if fold_of[record.image_id] != TRAIN_ONLY]
        return from_rank_zero(lambda: _judge(out, folds, known, fold_of, first, str(where)))


def report(result: CrossValidation, seed: int = 0) -> str:
    """A table of the out-of-fold scores: by cell type, then of all images.

    The interval is the 95% bootstrap interval of the mean over images. "calibrated" is the score
    with thresholds that were tuned on images of other groups.
    """
    rng = np.random.default_rng(seed)
    header = ["out of fold", "images", "score", "95% interval", "calibrated", "type named"]
    rows = []
    for name in [*result.calibration.tunings, "all"]:
        own = [image for image in result.images if name in (image.cell_type, "all")]
        scores = [image.score for image in own]
        low, high = bootstrap_interval(scores, rng)
        calibrated = np.mean([image.calibrated_score for image in own])
        named = np.mean([image.named == image.cell_type for image in own])
        interval = f"{low:.4f} to {high:.4f}"
        values = f"{np.mean(scores):.4f}", interval, f"{calibrated:.4f}", f"{named:.0%}"
        rows.append((name, len(own), *values))
    views = f"(averages of {result.tta} views)" if result.tta > 1 else "(one view)"
    return f"{text_table(rows, header)}\n{views}"


def _judge(
    out: Path,
    folds: list[TrainResult],
    records: list[Record],
    fold_of: Mapping[str, int],
    config: Config,
    device: str,
) -> CrossValidation:
    """Score every image by the network that did not learn from it, and calibrate."""
    named = _collect(out, folds, records, fold_of, config, device)
    # Not those of the card: one that died here may have put tuned thresholds there already.
    calibration = calibrate(_samples(out, records), config.cell_types, config.seed)
    for fold_result in folds:
        _calibrate_card(fold_result.checkpoint, calibration)
    images = tuple(
        OutOfFold(r.image_id, r.cell_type, r.group, fold_of[r.image_id], named[r.image_id], *scores)
        for r in records
        for scores in [calibration.scores[r.image_id]]
    )
    result = CrossValidation(out, tuple(folds), images, calibration, config.tta)
    _write(result)
    return result


def _warn_of_leaks(start: Path | None, extra: str | None) -> None:
    if start is not None and read_card(start).provenance.get("stage") == TRAINING:
        _log.warning("%s has learned from labelled images: if they are among these, the", start)
        _log.warning("out-of-fold scores flatter")
    if extra is not None and "{fold}" not in extra:
        _log.warning("all folds share the extra images of %s: if a model labelled them that", extra)
        _log.warning("has learned from the images of a fold, the out-of-fold scores flatter")


def _collect(
    out: Path,
    folds: list[TrainResult],
    records: list[Record],
    fold_of: Mapping[str, int],
    config: Config,
    device: str,
) -> dict[str, str]:
    """Keep each image's out-of-fold fields on disk; the cell type that each is taken for."""
    folder = ensure_writable_folder(out / OUT_OF_FOLD_FLOWS)
    named = {}
    with tqdm(total=len(records), desc="out of fold", unit="image") as bar:
        for fold, result in enumerate(folds):
            precision, tta = config.training.precision, config.tta
            segmenter = Segmenter.load(result.checkpoint, device, precision, tta=tta)
            for record in records:
                if fold_of[record.image_id] == fold:
                    grey = normalize(record.image())
                    named[record.image_id] = resolve_settings(segmenter, grey, SegmentOptions())[0]
                    field = segmenter.predict_flows(
                        grey, settings_for(segmenter.card, record.cell_type)
                    )
                    save_fields(folder / f"{record.image_id}.npz", field.flows, field.cellprob)
                    bar.update()
    return named


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
        )


def _calibrate_card(path: Path, calibration: Calibration) -> None:
    """Put the tuned thresholds on a checkpoint's card; its diameters stay its own."""
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
