"""The folder of a run: begun, taken up again, closed."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from flowseg.config.loading import load_config, to_mapping, to_yaml
from flowseg.config.plain import read_yaml
from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_folder, write_text
from flowseg.io.temporary import is_part
from flowseg.training.distributed import from_rank_zero, is_rank_zero

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "BEST",
    "CONFIG",
    "CURVES",
    "FOLDS",
    "LAST",
    "LOCK",
    "METRICS",
    "ORIGIN",
    "OVERLAYS",
    "STATE",
    "SUMMARY",
    "TENSORBOARD",
    "checkpoint_at",
    "lock_run_folder",
    "open_run_folder",
]

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

_log = logging.getLogger(__name__)


@contextmanager
def lock_run_folder(folder: Path, wait: bool = False) -> Iterator[None]:
    """Make `folder` and let one training at a time into it, which its first process stands for.

    The system frees it however a process ends; loader processes that outlive theirs do not hold it.

    Raises
    ------
    FlowsegError
        If another training is in it, unless it is to be waited for.
    """
    if not is_rank_zero():
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
def open_run_folder(
    out: Path, config: Config, origin: Mapping[str, Any], resume: bool
) -> Iterator[bool]:
    """The run's folder, made or checked to be this run's, for one training; has it a state?

    A run that died in its pre-training has settings and no state yet: it is resumed as well.
    """
    if resume and not from_rank_zero((out / CONFIG).is_file):
        raise FlowsegError(
            "holds no run to resume, so no checkpoint",
            file=out,
            remedy="start without --resume, or name the run's folder with --out",
        )
    with lock_run_folder(out):
        yield from_rank_zero(lambda: _begin(out, config, origin, resume))


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
                remedy="resume with the same command (and --recipe), or start a new --out",
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


def checkpoint_at(path: str) -> Path:
    """The checkpoint that `path` is, or the best one of the run's folder that it is."""
    return Path(path) / BEST if Path(path).is_dir() else Path(path)
