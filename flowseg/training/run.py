"""A run from its plan to its folder: pre-training, training, overlays, curves, summary."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowseg.config.loading import to_yaml
from flowseg.config.schema import Config
from flowseg.data.folds import write_folds
from flowseg.errors import FlowsegError
from flowseg.network.build import build_network
from flowseg.training.budget import within_budget
from flowseg.training.distributed import (
    assert_same_on_all_ranks,
    distributed_session,
    from_rank_zero,
    is_rank_zero,
    on_rank_zero,
)
from flowseg.training.finish import close_folder, draw_overlays
from flowseg.training.plan import DRAWN, Plan, check_images, plan_training
from flowseg.training.pretraining import inherit, pretrained
from flowseg.training.provenance import provenance_of
from flowseg.training.run_folder import (
    BEST,
    FOLDS,
    OVERLAYS,
    SUMMARY,
    TRAINING,
    Resume,
    is_finished,
    open_run_folder,
    read_summary,
)
from flowseg.training.stage import Stage
from flowseg.training.tensorboard import Board, load_writer
from flowseg.training.trainer import train_stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run."""

    folder: Path
    """The run's folder."""
    checkpoint: Path
    """Its best checkpoint."""
    score: float
    """Competition score of that checkpoint on the validation fold."""
    epoch: int
    """The epoch it is from."""


def train(
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
    """Train a model on the competition's data, or on your own, and write a run's folder.

    Parameters
    ----------
    config : Config
        From :func:`flowseg.load_config`; ``config.cell_types`` says which cell types take part.
    data : path
        The unzipped competition, or a folder of images and labels: see
        :func:`flowseg.data.folder.read_folder`. The word "drawn" stands for images that are drawn
        on the way, each crop another one; nothing is validated then.
    out : path
        The run's folder: resolved config, folds, metrics, checkpoints, overlays, summary.
    pretrain : str, optional
        "none", "livecell" (the mirror inside `data`; its checkpoint is kept beside `out` and
        reused by runs of the same settings), "phase+livecell" (the same, from the model that comes
        with flowseg), or a shipped model's name, the path of a checkpoint or of a run's folder; its
        architecture is taken over unless `config` names another. By default "phase" where the
        network is of its architecture, and for a folder of one's own; else "none".
    train_only : path, optional
        A text file of image ids that are never validated on.
    device : str
        Such as "auto", "cpu", "cuda", "cuda:1" or "mps"; under torchrun each rank takes a CUDA
        device of its own.
    resume : bool or "auto"
        Continue the run in `out`, which must have the same settings; "auto": if there is one.
    tensorboard : bool
        Also write events for TensorBoard into `out`.

    Returns
    -------
    TrainResult

    Raises
    ------
    FlowsegError
        If data, settings, checkpoint or device do not fit, another training is in `out`, it holds
        another run, or a file cannot be read or written.
    """
    if tensorboard:
        load_writer()
    with distributed_session(device) as rank_device:
        plan = plan_training(config, data, pretrain, train_only)
        from_rank_zero(lambda: check_images([*plan.records, *plan.extra]))
        (plan,) = within_budget([plan], Path(out), rank_device, resume)
        return train_plan(plan, Path(out), rank_device, resume=resume, tensorboard=tensorboard)


def train_plan(
    plan: Plan,
    out: Path,
    device: torch.device,
    *,
    resume: Resume = False,
    tensorboard: bool = False,
) -> TrainResult:
    """As :func:`train`, for a plan that was made and images that were checked before."""
    origin = plan.origin(device)
    assert_same_on_all_ranks(to_yaml(plan.config), origin)
    with on_rank_zero(open_run_folder(out, plan.config, origin, resume=resume)) as has_state:
        if from_rank_zero(lambda: is_finished(out)):
            return from_rank_zero(lambda: finished_result(out))
        start = pretrained(plan, out, device)
        from_rank_zero(lambda: write_folds(out / FOLDS, plan.records, plan.folds))
        board = Board(out) if tensorboard and is_rank_zero() else None
        stage = _stage(plan, out, start, origin, board)
        network = build_network(plan.config.network, len(plan.config.cell_types), plan.config.seed)
        if start is not None and not has_state and is_rank_zero():
            inherit(network, start)
        result = train_stage(stage, network, device, has_state)

        def finish() -> None:
            draw_overlays(stage, device)
            if board is not None:
                board.close(out / OVERLAYS, result.epoch)
            close_folder(stage, result)

        from_rank_zero(finish)
        return TrainResult(
            folder=out, checkpoint=out / BEST, score=result.score, epoch=result.epoch
        )


def _stage(
    plan: Plan, out: Path, start: Path | None, origin: Mapping[str, Any], board: Board | None
) -> Stage:
    config = plan.config
    if plan.data is None:
        _log.info("training on drawn images, without validation")
    else:
        _log.info(
            "training on %d images, validating on %d (fold %d of %d)",
            len(plan.training),
            len(plan.validation),
            config.data.fold,
            config.data.folds,
        )
    provenance = provenance_of(config, plan.training, plan.validation) | {
        "stage": TRAINING,
        "pretraining": None if start is None else f"{start.parent.name}/{start.name}",
        "extra_images": len(plan.extra),
        "extra_data": origin["extra"],
    }
    if plan.data is None:
        provenance["data"] = DRAWN
    return Stage(
        folder=out,
        config=config,
        schedule=config.training,
        training=plan.training,
        validation=plan.validation,
        extra=plan.extra,
        provenance=provenance,
        dataset=plan.dataset,
        runs=plan.runs,
        on_epoch=None if board is None else board.add_epoch,
    )


def finished_result(out: Path) -> TrainResult:
    """The result of a run that was finished before."""
    try:
        summary = read_summary(out) or {}
        score, epoch = float(summary["validation_score"]), int(summary["best_epoch"])
    except (ValueError, KeyError, TypeError) as error:
        raise FlowsegError(
            "is damaged", file=out / SUMMARY, remedy="remove it, and resume again"
        ) from error
    _log.info("%s is finished", out)
    return TrainResult(folder=out, checkpoint=out / BEST, score=score, epoch=epoch)
