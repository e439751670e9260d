"""A whole run: records, folds, pre-training, training, and a folder that holds what came out."""

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
from flowseg.network.unet import FlowNetwork
from flowseg.training.distributed import (
    assert_same_on_all_ranks,
    distributed_session,
    from_rank_zero,
    is_rank_zero,
    on_rank_zero,
)
from flowseg.training.finish import close_folder, draw_overlays
from flowseg.training.plan import Plan, check_images, plan
from flowseg.training.pretraining import inherit, pretrained
from flowseg.training.provenance import provenance_of
from flowseg.training.run_folder import (
    BEST,
    FOLDS,
    OVERLAYS,
    SUMMARY,
    TRAINING,
    is_finished,
    open_run_folder,
    read_summary,
)
from flowseg.training.tensorboard import Board, load_writer
from flowseg.training.trainer import Stage, train_stage

__all__ = ["TrainResult", "train"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes
    ----------
    folder : Path
        The run's folder.
    checkpoint : Path
        Its best checkpoint.
    score : float
        Competition score of that checkpoint on the validation fold.
    epoch : int
        The epoch it is from.
    """

    folder: Path
    checkpoint: Path
    score: float
    epoch: int


def train(
    config: Config,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pretrain: str = "none",
    train_only: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    tensorboard: bool = False,
) -> TrainResult:
    """Train on the competition's data, or on one's own, and leave a run folder.

    Parameters
    ----------
    config : Config
        From :func:`flowseg.load_config`; ``config.cell_types`` says which cell types take part.
    data : path
        The unzipped competition, or a folder of images and labels: see
        :func:`flowseg.data.folder.read_folder`.
    out : path
        The run's folder: resolved config, folds, metrics, checkpoints, overlays, summary.
    pretrain : str
        "none", "livecell" (the mirror inside `data`; its checkpoint is kept beside `out` and
        reused by runs of the same settings), or the path of a checkpoint or of a run's folder;
        its architecture is taken over unless `config` names another.
    train_only : path, optional
        A text file of image ids that are never validated on.
    device : str
        "auto", "cpu", "cuda" or "mps"; of several processes each takes a CUDA device of its own.
    resume : bool
        Continue the run in `out`, which must have the same settings.
    tensorboard : bool
        Also write events for TensorBoard into `out`.

    Returns
    -------
    TrainResult

    Raises
    ------
    FlowsegError
        For whatever the user can mend.
    """
    if tensorboard:
        load_writer()
    with distributed_session(device) as where:
        return _train(
            config, Path(data), Path(out), pretrain, train_only, where, resume, tensorboard
        )


def _train(
    config: Config,
    data: Path,
    out: Path,
    pretrain: str,
    train_only: str | os.PathLike[str] | None,
    where: torch.device,
    resume: bool,
    tensorboard: bool,
) -> TrainResult:
    """What one process does; only the first of several writes."""
    planned = plan(config, data, pretrain, train_only)
    from_rank_zero(lambda: check_images([*planned.records, *planned.extra]))
    origin = planned.origin(pretrain, where)
    assert_same_on_all_ranks(to_yaml(planned.config), origin)
    with on_rank_zero(open_run_folder(out, planned.config, origin, resume=resume)) as has_state:
        if from_rank_zero(lambda: is_finished(out)):
            return from_rank_zero(lambda: _finished(out))
        start = pretrained(pretrain, planned.config, data, out, where)
        from_rank_zero(lambda: write_folds(out / FOLDS, planned.records, planned.folds))
        board = Board(out) if tensorboard and is_rank_zero() else None
        stage = _stage(planned, out, start, origin, board)
        network = FlowNetwork(stage.config.network, len(stage.config.cell_types), stage.config.seed)
        if start is not None and not has_state and is_rank_zero():
            inherit(network, start)
        result = train_stage(stage, network, where, has_state)

        def finish() -> None:
            draw_overlays(out, stage.validation, str(where), stage.schedule.precision)
            if board is not None:
                board.close(out / OVERLAYS, result.epoch)
            close_folder(out, stage, result)

        from_rank_zero(finish)
        return TrainResult(out, out / BEST, result.score, result.epoch)


def _stage(
    planned: Plan, out: Path, start: Path | None, origin: Mapping[str, Any], board: Board | None
) -> Stage:
    config = planned.config
    _log.info(
        "training on %d images, validating on %d (fold %d of %d)",
        len(planned.training),
        len(planned.validation),
        config.data.fold,
        config.data.folds,
    )
    provenance = provenance_of(config, planned.training, planned.validation) | {
        "stage": TRAINING,
        "pretraining": None if start is None else f"{start.parent.name}/{start.name}",
        "extra_images": len(planned.extra),
        "extra_data": origin["extra"],
    }
    return Stage(
        folder=out,
        config=config,
        schedule=config.training,
        training=planned.training,
        validation=planned.validation,
        extra=planned.extra,
        provenance=provenance,
        on_epoch=None if board is None else board.add_epoch,
    )


def _finished(out: Path) -> TrainResult:
    """What a run came to that has ended before."""
    try:
        summary = read_summary(out) or {}
        score, epoch = float(summary["validation_score"]), int(summary["best_epoch"])
    except (ValueError, KeyError, TypeError) as error:
        raise FlowsegError(
            "is damaged", file=out / SUMMARY, remedy="remove it, and resume again"
        ) from error
    _log.info("%s is finished", out)
    return TrainResult(out, out / BEST, score, epoch)
