"""The checkpoints to predict with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from flowseg.errors import FlowsegError
from flowseg.io.paths import PathLike
from flowseg.network.shipped import DEFAULT_MODEL, named_model
from flowseg.training.run_folder import (
    BEST,
    CROSS_VALIDATION,
    TRAINING,
    checkpoint_at,
    find_finished,
)

_log = logging.getLogger(__name__)


def find_models(paths: Sequence[PathLike] | None, runs: PathLike = "runs") -> list[Path]:
    """The checkpoints to use; None: of the run or cross validation in `runs` that finished last.

    A path is a checkpoint; a run's folder, whose best checkpoint is meant; a folder of several
    finished runs, such as a cross validation's; or the name of a shipped model. Where nothing was
    trained the shipped model is taken, which is logged.
    """
    if paths is not None:
        return [model for path in paths for model in _models_at(Path(path))]
    finished = find_finished(Path(runs), TRAINING, CROSS_VALIDATION)
    if not finished:
        _log.info(
            "no finished run in %s: using the model %r that comes with flowseg (flowseg models)",
            runs,
            DEFAULT_MODEL,
        )
        return _models_at(named_model(DEFAULT_MODEL))
    return _models_at(finished[-1])


def _models_at(path: Path) -> list[Path]:
    path = named_model(path)
    if not path.exists():
        raise FlowsegError("there is no such checkpoint", file=path)
    if (checkpoint := checkpoint_at(path)).is_file():
        return [checkpoint]
    models = sorted(checkpoint_at(run) for run in find_finished(path, TRAINING))
    models = [model for model in models if model.is_file()]
    if not models:
        raise FlowsegError(f"holds no {BEST} and no finished run", file=path)
    return models
