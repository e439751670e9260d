"""A whole run: records, folds, pre-training, training, and a folder that holds what came out."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flowseg.config import Config, NetworkConfig, to_yaml
from flowseg.data.defects import repair
from flowseg.data.folds import split_fold, write_folds
from flowseg.data.layouts import layout_of, read_records
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import read_card
from flowseg.network.unet import FlowNetwork
from flowseg.training.distributed import (
    check_alike,
    from_first,
    is_first,
    joined,
    processes,
)
from flowseg.training.folder import FOLDS, OVERLAYS, close_folder, draw_overlays, open_folder
from flowseg.training.images import (
    check_images,
    extra_images,
    fewer_folds,
    measure_cells,
    split_images,
)
from flowseg.training.loop import BEST, Stage, fit
from flowseg.training.pretraining import checkpoint_at, inherit, pretrained
from flowseg.training.provenance import fingerprint, provenance_of
from flowseg.training.tensorboard import Board, load_writer

__all__ = ["TrainResult", "plan", "train"]

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
        From :func:`flowseg.load_config`; ``config.cells`` says which cell types take part.
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
    with joined(device) as where:
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
    config, records, folds = plan(config, data, train_only)
    if pretrain not in ("none", "livecell") and config.network == NetworkConfig():
        # nothing else was asked for, so the network is the one to start from
        config = replace(config, network=read_card(checkpoint_at(pretrain)).network)
    extra = extra_images(config, records)
    from_first(lambda: check_images([*records, *extra]))
    training, validation = split_fold(records, folds, config.data.fold)
    training = [
        replace(record, annotation=repair(record.masks(), config.data.repair))
        for record in training
    ]
    cells = measure_cells(config.cells, training)
    config = replace(config, cells=cells)
    origin = {
        "pretrain": pretrain,
        "training": fingerprint(training),
        "validation": fingerprint(validation),
        "extra": fingerprint(extra) if extra else None,
        "processes": processes(),
    }
    check_alike(to_yaml(config), origin)
    resume = from_first(lambda: open_folder(out, config, origin, resume))
    board = Board(out) if tensorboard and is_first() else None
    start = pretrained(pretrain, config, data, out, where)
    _log.info(
        "training on %d images, validating on %d (fold %d of %d)",
        len(training),
        len(validation),
        config.data.fold,
        config.data.folds,
    )
    from_first(lambda: write_folds(out / FOLDS, records, folds))
    provenance = provenance_of(config, training, validation) | {
        "stage": "training",
        "pretraining": None if start is None else start.name,
        "extra_images": len(extra),
        "extra_data": origin["extra"],
    }
    stage = Stage(
        "training",
        out,
        training,
        validation,
        cells,
        config,
        config.training,
        provenance,
        None if board is None else board.add_epoch,
        extra,
    )
    network = FlowNetwork(config.network, len(cells), config.seed)
    if start is not None and not resume and is_first():
        inherit(network, start)
    result = fit(stage, network, where, resume)

    def finish() -> None:
        draw_overlays(out, validation, str(where))
        if board is not None:
            board.close(out / OVERLAYS, result.epoch)
        close_folder(out, stage, result)

    from_first(finish)
    return TrainResult(out, out / BEST, result.score, result.epoch)


def plan(
    config: Config, data: Path, train_only: str | os.PathLike[str] | None
) -> tuple[Config, list[Record], dict[str, int]]:
    """The settings as far as the data decide them, the images, and the fold of each."""
    _check_crop(config)
    records = read_records(data, tuple(config.cells), config.data.include_flawed)
    if layout_of(data) == "folder":
        config = replace(config, data=fewer_folds(config.data, len(records)))
    return config, records, split_images(records, config.data, train_only)


def _check_crop(config: Config) -> None:
    stride = 1 << (len(config.network.channels) - 1)
    crop = config.augment.crop
    if crop % stride:
        raise FlowsegError(
            f"augment.crop is {crop}, but this network needs a multiple of {stride}",
            remedy=f"set augment.crop={-(-crop // stride) * stride}",
        )
