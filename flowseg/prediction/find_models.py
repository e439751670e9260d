"""The checkpoints to predict with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flowseg.errors import FlowsegError
from flowseg.io.paths import PathLike
from flowseg.training.run_folder import (
    BEST,
    CROSS_VALIDATION,
    TRAINING,
    checkpoint_at,
    find_finished,
)


def find_models(paths: Sequence[PathLike] | None, runs: PathLike = "runs") -> list[Path]:
    """The checkpoints to use; None: of the run or cross validation in `runs` that finished last.

    A path is a checkpoint; a run's folder, whose best checkpoint is meant; or a folder of several
    finished runs, such as a cross validation's.
    """
    if paths is not None:
        return [model for path in paths for model in _models_at(Path(path))]
    finished = find_finished(Path(runs), TRAINING, CROSS_VALIDATION)
    if not finished:
        raise FlowsegError(
            "holds no finished run, so there is no model",
            file=runs,
            remedy="train one (flowseg train --help), or name a checkpoint with --model",
        )
    return _models_at(finished[-1])


def _models_at(path: Path) -> list[Path]:
    if not path.exists():
        raise FlowsegError("there is no such checkpoint", file=path)
    if (checkpoint := checkpoint_at(path)).is_file():
        return [checkpoint]
    models = sorted(checkpoint_at(run) for run in find_finished(path, TRAINING))
    models = [model for model in models if model.is_file()]
    if not models:
        raise FlowsegError(f"holds no {BEST} and no finished run", file=path)
    return models
