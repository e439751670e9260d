"""The folder of a run: file names, lock, settings, origin and summary. Imports no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from flowseg.config.loading import from_mapping, read_settings, to_mapping, to_yaml
from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_folder, is_part, write_text
from flowseg.io.outputs import exclusive_lock
from flowseg.io.paths import PathLike
from flowseg.network.shipped import named_model

BEST = "best.safetensors"
LAST = "last.safetensors"
STATE = "state.safetensors"
METRICS = "metrics.csv"
TENSORBOARD = "tensorboard"
CONFIG = "config.yaml"
ORIGIN = "origin.json"
CURVES = "curves.png"
FOLDS = "folds.csv"
SUMMARY = "summary.json"
OVERLAYS = "overlays"
LOCK = ".lock"
DECODED = "decoded"  # beside the runs, which share it
OUT_OF_FOLD_FLOWS = "out_of_fold"
OUT_OF_FOLD_SCORES = "out_of_fold.csv"

_STAGES = ("training", "pretraining")  # of the settings

Resume = bool | Literal["auto"]
"""Whether to continue the run in a folder; "auto": where there is one."""

StageName = Literal["training", "pretraining", "cross validation"]
TRAINING: StageName = "training"
PRETRAINING: StageName = "pretraining"
CROSS_VALIDATION: StageName = "cross validation"

_log = logging.getLogger(__name__)


def checkpoint_at(path: PathLike) -> Path:
    """`path` itself, the best checkpoint in a run's folder, or the shipped model of that name."""
    return Path(path) / BEST if Path(path).is_dir() else named_model(path)


def fold_folder(folder: Path, fold: int) -> Path:
    """The run's folder of one fold in a cross validation's folder."""
    return folder / f"fold{fold}"


def is_finished(folder: Path) -> bool:
    """Whether a run has ended: its summary is written last."""
    return (folder / SUMMARY).is_file()


def is_at_work(folder: Path) -> bool:
    """Whether a training holds the folder's lock; False where locks are not known to be kept."""
    if not (folder / LOCK).is_file():
        return False
    taken = FlowsegError("another training is at work in it", file=folder)
    try:
        with exclusive_lock(folder / LOCK, taken):
            return False
    except FlowsegError:
        return True


def find_finished(folder: Path, *stages: StageName) -> list[Path]:
    """The folders in `folder` of runs that finished one of `stages`, in the order they finished.

    A summary that cannot be read is passed over with a warning.
    """
    found = []
    for path in folder.glob(f"*/{SUMMARY}"):
        try:
            summary = read_summary(path.parent)
        except FlowsegError as error:
            _log.warning("%s", error)
            continue
        if summary is not None and summary.get("stage") in stages:
            found.append((path.stat().st_mtime_ns, path.parent))
    return [run for _, run in sorted(found)]


def read_summary(folder: Path) -> dict[str, Any] | None:
    """How the run in `folder` ended, None where it has not."""
    return _read_json(folder / SUMMARY, remedy="remove it, and resume the run")


def write_summary(folder: Path, stage: StageName, results: Mapping[str, Any]) -> None:
    """Write how a run ended; this comes last, since it marks the run as finished."""
    text = json.dumps({"stage": stage, **results}, indent=2)
    write_text(folder / SUMMARY, f"{text}\n")


def read_origin(folder: Path) -> dict[str, Any]:
    """What a run started from: data, checkpoint, device; empty where none is stored."""
    return _read_json(folder / ORIGIN, remedy="start a new --out") or {}


@contextmanager
def lock_run_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Make `folder` and let one training at a time into it.

    The system frees the lock however the process ends; its loader processes do not hold it.
    """
    ensure_writable_folder(folder)
    taken = FlowsegError(
        "another training is at work in it",
        file=folder,
        remedy="wait until it ends, or name another folder with --out",
    )
    with exclusive_lock(folder / LOCK, taken, wait=wait):
        yield


@contextmanager
def open_run_folder(
    folder: Path, config: Config, origin: Mapping[str, Any], *, resume: Resume
) -> Iterator[bool]:
    """Lock the run's folder and start or resume the run there.

    The settings and the origin, which is all else that decides the weights, are written to a new
    run's folder; a resumed run must have the same. Yields whether there is a training state to
    load: a run that ended in its pre-training has none.
    """
    if resume == "auto":
        resume = (folder / CONFIG).is_file()
    if resume and not (folder / CONFIG).is_file():
        raise FlowsegError(
            "holds no run to resume, so no checkpoint",
            file=folder,
            remedy="start without --resume, or name the run's folder with --out",
        )
    with lock_run_folder(folder):
        if resume:
            check_same_run(folder, config, origin)
        else:
            _start(folder, config, origin)
        yield resume and (folder / STATE).is_file()


def join_run_folder(folder: Path, config: Config, origin: Mapping[str, Any]) -> None:
    """Start the folder of a cross validation, or check that other jobs have started the same one.

    Without a lock: jobs that start at once write the same.
    """
    ensure_writable_folder(folder)
    if (folder / CONFIG).is_file():
        check_same_run(folder, config, origin)
    else:
        _start(folder, config, origin)


def check_same_run(folder: Path, config: Config, origin: Mapping[str, Any]) -> None:
    """Refuse a run in `folder` that was started with other settings or from something else."""
    # As it was written: what an earlier flowseg did not know is not taken for today's default.
    before = cast("dict[str, Any]", read_settings(folder / CONFIG) or {})
    from_mapping(Config, before, folder / CONFIG)  # refuses what no run has written
    now = to_mapping(config)
    for stage in (stages.get(name, {}) for stages in (before, now) for name in _STAGES):
        stage.pop("save_minutes", None)  # decides no weight
    changed = _differences(before, now)
    # An earlier flowseg did not count its processes: there was one.
    changed += _differences({"processes": 1} | read_origin(folder), origin)
    if changed:
        raise FlowsegError(
            f"was started with other settings: {', '.join(changed)}",
            file=folder / CONFIG,
            remedy="resume with the same command (and --recipe), or start a new --out",
        )


def _start(folder: Path, config: Config, origin: Mapping[str, Any]) -> None:
    # A folder with nothing but these is that of a run that ended before its first step.
    before_training = {CONFIG, ORIGIN, FOLDS, TENSORBOARD, LOCK}
    names = {path.name for path in folder.iterdir() if not is_part(path.name)}
    if names - before_training:
        raise FlowsegError(
            "is not empty",
            file=folder,
            remedy="continue its run with --resume, or name another folder with --out",
        )
    write_text(folder / ORIGIN, json.dumps(origin, indent=2) + "\n")
    write_text(folder / CONFIG, to_yaml(config))


def _read_json(path: Path, remedy: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FlowsegError("is damaged", file=path, remedy=remedy) from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    changed = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changed.append(f"{prefix}{key} {old} -> {new}")
    return changed
