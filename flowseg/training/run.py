"""A whole run: records, folds, pre-training, training, and a folder that holds what came out."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from tqdm import tqdm

from flowseg import __version__
from flowseg.config import (
    CellType,
    Config,
    DataConfig,
    NetworkConfig,
    load_config,
    to_mapping,
    to_yaml,
)
from flowseg.data.defects import repair
from flowseg.data.folds import assign_folds, read_ids, split_fold, write_folds
from flowseg.data.layouts import layout_of, read_records
from flowseg.data.livecell import Polygons, read_livecell
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.files import ensure_writable_folder, write_image, write_text
from flowseg.image import normalize
from flowseg.inference.segmenter import Segmenter
from flowseg.labels import masks_to_labels
from flowseg.network.checkpoint import load_network, read_card
from flowseg.network.device import pick_device
from flowseg.network.unet import FlowNetwork
from flowseg.overlay import side_by_side
from flowseg.rle import Masks
from flowseg.training.curves import write_curves
from flowseg.training.loop import BEST, METRICS, STATE, Stage, StageResult, fit
from flowseg.training.tensorboard import TENSORBOARD, Board, load_writer

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

__all__ = ["CONFIG", "CURVES", "FOLDS", "SUMMARY", "TrainResult", "train"]

CONFIG = "config.yaml"
ORIGIN = "origin.json"
CURVES = "curves.png"
FOLDS = "folds.csv"
SUMMARY = "summary.json"
_OVERLAYS = "overlays"
_MAX_OVERLAYS = 12
_MEASURED_IMAGES = 50

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
        "auto", "cpu", "cuda" or "mps".
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
    where = pick_device(device)
    if tensorboard:
        load_writer()
    data, out = Path(data), Path(out)
    records = read_records(data, tuple(config.cells), config.data.include_flawed)
    if pretrain not in ("none", "livecell") and config.network == NetworkConfig():
        # nothing else was asked for, so the network is the one to start from
        config = replace(config, network=read_card(_checkpoint(pretrain)).network)
    if layout_of(data) == "folder":
        config = replace(config, data=_fewer_folds(config.data, len(records)))
    _check_images(records)
    folds = _split(records, config.data, train_only)
    training, validation = split_fold(records, folds, config.data.fold)
    training = [
        replace(record, annotation=repair(record.masks(), config.data.repair))
        for record in training
    ]
    cells = _measure(config.cells, training)
    config = replace(config, cells=cells)
    _check_crop(config)
    origin = {
        "pretrain": pretrain,
        "training": _fingerprint(training),
        "validation": _fingerprint(validation),
    }
    resume = _open_folder(out, config, origin, resume)
    board = Board(out) if tensorboard else None
    start = _pretrained(pretrain, config, data, out, where)
    _log.info(
        "training on %d images, validating on %d (fold %d of %d)",
        len(training),
        len(validation),
        config.data.fold,
        config.data.folds,
    )
    write_folds(out / FOLDS, records, folds)
    provenance = _provenance(config, training, validation) | {
        "stage": "training",
        "pretraining": None if start is None else start.name,
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
        on_epoch=None if board is None else board.add_epoch,
    )
    network = FlowNetwork(config.network, len(cells), config.seed)
    if start is not None and not resume:
        _inherit(network, start)
    result = fit(stage, network, where, resume)
    _draw(out, validation, device)
    if board is not None:
        board.close(out / _OVERLAYS, result.epoch)
    _close_folder(out, stage, result)
    return TrainResult(out, out / BEST, result.score, result.epoch)


def _check_images(records: Sequence[Record]) -> None:
    """Read every image once: a damaged one ends a run before it starts, not days later."""
    for record in tqdm(records, desc="checking images", unit="image", delay=2, leave=False):
        record.image()


def _check_crop(config: Config) -> None:
    stride = 1 << (len(config.network.channels) - 1)
    crop = config.augment.crop
    if crop % stride:
        raise FlowsegError(
            f"augment.crop is {crop}, but this network needs a multiple of {stride}",
            remedy=f"set augment.crop={-(-crop // stride) * stride}",
        )


def _split(
    records: Sequence[Record], config: DataConfig, train_only: str | os.PathLike[str] | None
) -> dict[str, int]:
    """The fold of each image; `train_only` may also name images of other cell types."""
    known = {record.image_id for record in records}
    kept: frozenset[str] = frozenset()
    if train_only is not None:
        named = read_ids(train_only)
        kept = named & known
        if named and not kept:
            raise FlowsegError(
                f"names no image of this training, such as {min(known)!r}", file=train_only
            )
    return assign_folds(records, config.folds, seed=config.split_seed, train_only=kept)


def _fewer_folds(config: DataConfig, images: int) -> DataConfig:
    """As many folds as images, where someone's own are fewer than the folds asked for."""
    if images < 2:
        raise FlowsegError(
            "there is one image with labels, but one to learn from and one to check on are needed",
            remedy="label one more",
        )
    if images >= config.folds:
        return config
    _log.info("%d images make %d folds, not %d", images, images, config.folds)
    return replace(config, folds=images)


def _measure(cells: Mapping[str, CellType], records: Sequence[Record]) -> dict[str, CellType]:
    """`cells` with every unknown diameter replaced by the mean one of the training masks."""
    measured = {}
    for name, cell in cells.items():
        own = [record for record in records if record.cell_type == name]
        if not own:
            raise FlowsegError(f"there is no image of cell type {name!r} to train on")
        if cell.diameter is None:
            # An even sample is enough for a mean, and a large data set is read lazily.
            sample = own[:: -(-len(own) // _MEASURED_IMAGES)]
            areas = np.concatenate([record.masks().areas() for record in sample])
            areas = areas[areas > 0]
            if not areas.size:
                raise FlowsegError(f"the images of cell type {name!r} hold no cell to measure")
            diameter = float(np.mean(2 * np.sqrt(areas / np.pi)))
            _log.info("cell type %s: mean diameter %.1f px, measured", name, diameter)
            measured[name] = replace(cell, diameter=round(diameter, 2))
        else:
            measured[name] = cell
    return measured


def _pretrained(
    pretrain: str, config: Config, data: Path, out: Path, device: torch.device
) -> Path | None:
    """The checkpoint to start from; made first if it is LIVECell's and not there yet."""
    if pretrain == "none":
        return None
    if pretrain != "livecell":
        return _checkpoint(pretrain)
    training = read_livecell(data, ("train",))
    validation = read_livecell(data, ("val",))
    names = sorted({record.cell_type for record in training})
    stage_config = replace(config, cells={name: CellType() for name in names})
    key = _key(stage_config, [*training, *validation], device)
    folder = ensure_writable_folder(out.parent / f"livecell-{key}")
    with _alone(folder):
        if (folder / SUMMARY).is_file():
            _log.info("reusing the LIVECell pre-training in %s", folder)
        else:
            _pretrain(folder, stage_config, training, validation, device)
    return folder / BEST


def _pretrain(
    folder: Path,
    config: Config,
    training: Sequence[Record],
    validation: Sequence[Record],
    device: torch.device,
) -> None:
    """Train the first stage, or go on with it, and leave its checkpoint in `folder`."""
    _check_images([*training, *validation])
    cells = _measure(config.cells, training)
    config = replace(config, cells=cells)
    _log.info("pre-training on %d LIVECell images, kept in %s", len(training), folder)
    write_text(folder / CONFIG, to_yaml(config))
    known = [record for record in validation if record.cell_type in cells]
    provenance = _provenance(config, training, known) | {"stage": "pretraining"}
    schedule = config.pretraining
    stage = Stage("pre-training", folder, training, known, cells, config, schedule, provenance)
    network = FlowNetwork(config.network, len(cells), config.seed)
    # The folder's name covers all that decides the weights, so going on is safe.
    result = fit(stage, network, device, resume=(folder / STATE).is_file())
    _close_folder(folder, stage, result)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time into `folder`; the system frees it however a process ends."""
    with (folder / ".lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _checkpoint(path: str) -> Path:
    """The checkpoint that `path` is, or the best one of the run's folder that it is."""
    return Path(path) / BEST if Path(path).is_dir() else Path(path)


def _key(config: Config, records: Iterable[Record], device: torch.device) -> str:
    """A short name for everything that decides the weights of a pre-training."""
    settings = to_mapping(config)
    # Neither the schedule of the second stage nor the split changes the first.
    for unrelated in ("training", "data"):
        del settings[unrelated]
    material = {
        "settings": settings,
        "data": _fingerprint(records),
        "device": device.type,
        "flowseg": __version__,
    }
    return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()[:12]


def _fingerprint(records: Iterable[Record]) -> str:
    """A digest of which images, of which size in bytes, with which annotations."""
    digest = hashlib.sha256()
    tables: set[Path] = set()
    for record in sorted(records, key=lambda record: record.image_id):
        size = record.image_path.stat().st_size
        digest.update(f"{record.image_id} {size} {record.cell_type} {record.shape} ".encode())
        if isinstance(record.annotation, Masks):
            for runs in (record.annotation.offsets, record.annotation.starts):
                digest.update(runs.tobytes())
            digest.update(record.annotation.lengths.tobytes())
        elif isinstance(record.annotation, Polygons):
            tables.add(record.annotation.path)
    for table in sorted(tables):
        with table.open("rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def _inherit(network: FlowNetwork, path: Path) -> None:
    """Start from another network's weights; a head for other cell types starts afresh."""
    other, _ = load_network(path)
    if other.config != network.config:
        raise FlowsegError(
            f"holds another architecture: {to_mapping(other.config)} -> "
            f"{to_mapping(network.config)}",
            file=path,
            remedy="set the same network.* or choose another --pretrain",
        )
    weights = {k: v for k, v in other.state_dict().items() if not k.startswith("type_head.")}
    network.load_state_dict(weights, strict=False)


def _open_folder(out: Path, config: Config, origin: Mapping[str, str], resume: bool) -> bool:
    """Make the run's folder, or check that it is this run's; whether it holds a state.

    A run that died in its pre-training has settings and no state yet: it is resumed as well.
    """
    if resume:
        if not (out / CONFIG).is_file():
            raise FlowsegError(
                "holds no run to resume, so no checkpoint",
                file=out,
                remedy="start without --resume, or name the run's folder with --out",
            )
        before = to_mapping(load_config(path=out / CONFIG))
        changed = _differences(before, to_mapping(config))
        changed += _differences(_read_origin(out / ORIGIN), origin)
        if changed:
            raise FlowsegError(
                f"was started with other settings: {', '.join(changed)}",
                file=out / CONFIG,
                remedy="resume with the same command, or start a new --out",
            )
        return (out / STATE).is_file()
    # Settings and folds alone are those of a run that never began.
    begun = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if begun - {CONFIG, ORIGIN, FOLDS, TENSORBOARD}:
        raise FlowsegError(
            "is not empty",
            file=out,
            remedy="continue its run with --resume, or name another folder with --out",
        )
    ensure_writable_folder(out)
    write_text(out / ORIGIN, json.dumps(origin, indent=2) + "\n")
    write_text(out / CONFIG, to_yaml(config))
    return False


def _read_origin(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlowsegError("cannot be read", file=path, remedy="start a new --out") from error
    return content if isinstance(content, dict) else {}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key} {old} -> {new}")
    return changed


def _provenance(
    config: Config, training: Sequence[Record], validation: Sequence[Record]
) -> dict[str, Any]:
    return {
        "settings": to_mapping(config),
        "training_images": len(training),
        "validation_images": len(validation),
        "data": _fingerprint([*training, *validation]),
        "versions": {
            "flowseg": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "python": platform.python_version(),
        },
    }


def _draw(out: Path, validation: Sequence[Record], device: str) -> None:
    """Overlays of the best checkpoint on validation images: prediction left, truth right."""
    segmenter = Segmenter.load(out / BEST, device)
    folder = ensure_writable_folder(out / _OVERLAYS)
    for record in tqdm(validation[:_MAX_OVERLAYS], desc="overlays", unit="image"):
        image = record.image()
        labels = segmenter.segment(image, cell_type=record.cell_type).labels
        picture = side_by_side(normalize(image), labels, masks_to_labels(record.masks()))
        write_image(folder / f"{record.image_id}.png", picture)


def _close_folder(folder: Path, stage: Stage, result: StageResult) -> None:
    """The summary goes last: a folder that has one is finished."""
    write_curves(folder / METRICS, folder / CURVES)
    summary = {
        "stage": stage.provenance["stage"],
        "validation_score": result.score,
        "best_epoch": result.epoch,
        "epochs": stage.schedule.epochs,
        "seconds": round(result.seconds, 1),
        "training_images": len(stage.training),
        "validation_images": [record.image_id for record in stage.validation],
    }
    write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
