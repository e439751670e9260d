"""Cross validation: a network for each fold, out-of-fold scores, calibrated thresholds.

One command does it all; or each fold is a job of its own, and one more gathers them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import read_card
from flowseg.training.budget import within_budget
from flowseg.training.distributed import distributed_session, from_rank_zero, on_rank_zero
from flowseg.training.out_of_fold import CrossValidation, score_out_of_fold
from flowseg.training.plan import NONE, Plan, check_images, plan_folds
from flowseg.training.pretraining import pretrained
from flowseg.training.run import TrainResult, finished_result, train_plan
from flowseg.training.run_folder import (
    CONFIG,
    CROSS_VALIDATION,
    TRAINING,
    Resume,
    check_same_run,
    fold_folder,
    is_finished,
    join_run_folder,
    lock_run_folder,
    open_run_folder,
    read_origin,
)
from flowseg.training.tensorboard import load_writer

_log = logging.getLogger(__name__)


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
        settings, origin = _in_common(plans, config, rank_device)
        with on_rank_zero(open_run_folder(out, settings, origin, resume=resume)):
            start = pretrained(plans[0], out, rank_device)
            _warn_of_leaks(start, config.data.extra)
            results = []
            for fold, plan in enumerate(plans):
                _log.info("fold %d of %d", fold, len(plans))
                result = train_plan(
                    replace(_started_from(plan, start), runs=len(plans) - fold),
                    fold_folder(out, fold),
                    rank_device,
                    resume="auto",
                    tensorboard=tensorboard,
                )
                results.append(result)
            return from_rank_zero(lambda: score_out_of_fold(out, plans, results, str(rank_device)))


def train_fold(
    config: Config,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pretrain: str | None = None,
    train_only: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: Resume = False,
    tensorboard: bool = False,
) -> TrainResult:
    """Train one fold of a cross validation; :func:`gather_folds` does the rest.

    Jobs of the other folds, with the same arguments, may work in `out` at the same time, on other
    machines too. They share the LIVECell stage as :func:`flowseg.training.pretraining.pretrained`
    says.

    Parameters
    ----------
    config, data, out, pretrain, train_only, device, resume, tensorboard
        As for :func:`cross_validate`; ``config.data.fold`` is the fold, which alone is resumed.

    Returns
    -------
    TrainResult

    Raises
    ------
    FlowsegError
        As for :func:`cross_validate`.
    """
    if tensorboard:
        load_writer()
    out, fold = Path(out), config.data.fold
    with distributed_session(device) as rank_device:
        plans = _plan_jobs(config, Path(data), pretrain, train_only)
        plan = plans[fold]
        from_rank_zero(lambda: check_images([*plan.records, *plan.extra]))
        settings, origin = _in_common(plans, config, rank_device)
        from_rank_zero(lambda: join_run_folder(out, settings, origin))
        folder = fold_folder(out, fold)
        start = pretrained(plans[0], out, rank_device, f"{out.name}-{folder.name}")
        _warn_of_leaks(start, config.data.extra)
        return train_plan(
            _started_from(plan, start),
            folder,
            rank_device,
            resume=resume,
            tensorboard=tensorboard,
        )


def gather_folds(
    config: Config,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pretrain: str | None = None,
    train_only: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> CrossValidation:
    """Score the folds that jobs have trained in `out` out of fold, and calibrate their thresholds.

    On the device they were trained on this gives the bytes of :func:`cross_validate`.

    Parameters
    ----------
    config, data, out, pretrain, train_only
        As for :func:`cross_validate`, and as the folds were trained.
    device : str
        What predicts here; it need not be what the folds were trained on.

    Returns
    -------
    CrossValidation

    Raises
    ------
    FlowsegError
        If a fold is missing, not finished, or was trained otherwise; and as for
        :func:`cross_validate`.
    """
    config = replace(config, data=replace(config.data, fold=0))
    out = Path(out)
    with distributed_session(device) as rank_device:
        plans = _plan_jobs(config, Path(data), pretrain, train_only)
        settings, origin = _in_common(plans, config, rank_device)

        def gather() -> CrossValidation:
            _check_finished(out, len(plans))
            with lock_run_folder(out):
                check_same_run(out, settings, _on_any_machine(out, origin))
                results = [_checked_result(out, plan, rank_device) for plan in plans]
                return score_out_of_fold(out, plans, results, str(rank_device))

        return from_rank_zero(gather)


def _plan_jobs(
    config: Config, data: Path, pretrain: str | None, train_only: str | os.PathLike[str] | None
) -> list[Plan]:
    """The plans of all folds, of which each job trains one."""
    if config.time_budget is not None:
        raise FlowsegError(
            "a time budget measures one machine, but folds of several jobs need one schedule",
            remedy="set --epochs in place of --time-budget",
        )
    return list(map(_validated_last, plan_folds(config, data, pretrain, train_only)))


def _in_common(
    plans: list[Plan], config: Config, device: torch.device
) -> tuple[Config, dict[str, Any]]:
    """Settings and origin of the whole cross validation."""
    settings = replace(plans[0].config, cell_types=config.cell_types)
    return settings, plans[0].origin(device) | {"stage": CROSS_VALIDATION}


def _started_from(plan: Plan, start: Path | None) -> Plan:
    return replace(plan, pretrain=NONE if start is None else str(start))


def _check_finished(out: Path, folds: int) -> None:
    """Refuse to gather what is not there, naming the folds to train."""
    folders = {fold: fold_folder(out, fold) for fold in range(folds)}
    missing = {fold: folder for fold, folder in folders.items() if not is_finished(folder)}
    if missing:
        problems = (
            f"fold {fold} {'is not finished' if (folder / CONFIG).is_file() else 'was not started'}"
            for fold, folder in missing.items()
        )
        options = ", ".join(f"--fold {fold}" for fold in missing)
        raise FlowsegError(
            ", ".join(problems),
            file=out,
            remedy=f"first give the same command with {options} (and --resume auto) in place "
            "of --gather",
        )


def _checked_result(out: Path, plan: Plan, device: torch.device) -> TrainResult:
    """The result of a finished fold, if it was trained as planned."""
    folder = fold_folder(out, plan.config.data.fold)
    origin = plan.origin(device)
    if plan.livecell:  # the stage itself need not be here, but all folds began with the same one
        origin["pretrain"] = read_origin(fold_folder(out, 0)).get("pretrain")
    check_same_run(folder, plan.config, _on_any_machine(folder, origin))
    return finished_result(folder)


def _on_any_machine(folder: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """An origin on the device and with the processes of the run in `folder`."""
    before = read_origin(folder)
    return {**origin, **{key: before[key] for key in ("device", "processes") if key in before}}


def _validated_last(plan: Plan) -> Plan:
    """The plan with a validation after the last epoch only, see the Notes of `cross_validate`."""
    schedule = replace(plan.config.training, validate_every=plan.config.training.epochs)
    return replace(plan, config=replace(plan.config, training=schedule))


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
