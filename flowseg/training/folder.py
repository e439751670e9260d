"""The folder of a run: begun, taken up again, closed."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tqdm import tqdm

from flowseg._plain import read_yaml
from flowseg.config import Config, Precision, load_config, to_mapping, to_yaml
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.files import ensure_writable_folder, is_part, write_image, write_text
from flowseg.image import normalize
from flowseg.inference.segmenter import Segmenter
from flowseg.labels import masks_to_labels
from flowseg.overlay import side_by_side
from flowseg.training.curves import write_curves
from flowseg.training.distributed import from_first, is_first
from flowseg.training.loop import BEST, METRICS, STATE, Stage, StageResult
from flowseg.training.tensorboard import TENSORBOARD

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "CONFIG",
    "CURVES",
    "FOLDS",
    "OVERLAYS",
    "SUMMARY",
    "alone_in",
    "close_folder",
    "draw_overlays",
    "opened",
]

CONFIG = "config.yaml"
ORIGIN = "origin.json"
CURVES = "curves.png"
FOLDS = "folds.csv"
SUMMARY = "summary.json"
OVERLAYS = "overlays"
LOCK = ".lock"
_MAX_OVERLAYS = 12

_log = logging.getLogger(__name__)


@contextmanager
def alone_in(folder: Path, wait: bool = False) -> Iterator[None]:
    """Make `folder` and let one training at a time into it, which its first process stands for.

    The system frees it however a process ends; loader processes that outlive theirs do not hold it.

    Raises
    ------
    FlowsegError
        If another training is in it, unless it is to be waited for.
    """
    if not is_first():
        yield
        return
    ensure_writable_folder(folder)
    with (folder / LOCK).open("w") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise FlowsegError(
                        "another training is at work in it",
                        file=folder,
                        remedy="wait until it ends, or name another folder with --out",
                    ) from error
                _log.warning(
                    "%s cannot be locked (%s): start no other training there", folder, error
                )
        yield


@contextmanager
def opened(out: Path, config: Config, origin: Mapping[str, Any], resume: bool) -> Iterator[bool]:
    """The run's folder, made or checked to be this run's, for one training; has it a state?

    A run that died in its pre-training has settings and no state yet: it is resumed as well.
    """
    if resume and not from_first((out / CONFIG).is_file):
        raise FlowsegError(
            "holds no run to resume, so no checkpoint",
            file=out,
            remedy="start without --resume, or name the run's folder with --out",
        )
    with alone_in(out):
        yield from_first(lambda: _begin(out, config, origin, resume))


def _begin(out: Path, config: Config, origin: Mapping[str, Any], resume: bool) -> bool:
    if resume:
        load_config(path=out / CONFIG)  # refuses what no run has written
        # As it was written: what an earlier flowseg did not know is not taken for today's default.
        before = cast("dict[str, Any]", read_yaml(out / CONFIG) or {})
        changed = _differences(before, to_mapping(config))
        changed += _differences(_read_origin(out / ORIGIN), origin)
        if changed:
            raise FlowsegError(
                f"was started with other settings: {', '.join(changed)}",
                file=out / CONFIG,
                remedy="resume with the same command (and --machine), or start a new --out",
            )
        return (out / STATE).is_file()
    # Settings and folds alone are those of a run that never began.
    begun = {path.name for path in out.iterdir()}
    if {name for name in begun if not is_part(name)} - {
        *(CONFIG, ORIGIN, FOLDS, TENSORBOARD, LOCK)
    }:
        raise FlowsegError(
            "is not empty",
            file=out,
            remedy="continue its run with --resume, or name another folder with --out",
        )
    write_text(out / ORIGIN, json.dumps(origin, indent=2) + "\n")
    write_text(out / CONFIG, to_yaml(config))
    return False


def draw_overlays(
    out: Path, validation: Sequence[Record], device: str, precision: Precision
) -> None:
    """Overlays of the best checkpoint on validation images: prediction left, truth right."""
    segmenter = Segmenter.load(out / BEST, device, precision)
    folder = ensure_writable_folder(out / OVERLAYS)
    for record in tqdm(validation[:_MAX_OVERLAYS], desc="overlays", unit="image"):
        image = record.image()
        labels = segmenter.segment(image, cell_type=record.cell_type).labels
        picture = side_by_side(normalize(image), labels, masks_to_labels(record.masks()))
        write_image(folder / f"{record.image_id}.png", picture)


def close_folder(folder: Path, stage: Stage, result: StageResult) -> None:
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


def _read_origin(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlowsegError("cannot be read", file=path, remedy="start a new --out") from error
    # An earlier flowseg did not count its processes: there was one.
    return {"processes": 1} | (content if isinstance(content, dict) else {})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key} {old} -> {new}")
    return changed
