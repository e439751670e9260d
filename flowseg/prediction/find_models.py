"""What to predict on, and with which models."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from flowseg.errors import FlowsegError
from flowseg.io.paths import find_images
from flowseg.training.run_folder import BEST, CROSS_VALIDATION, TRAINING, find_finished

__all__ = ["find_inputs", "find_models"]

_RUNS = Path("runs")


def find_inputs(patterns: Sequence[str], data: str | os.PathLike[str]) -> list[Path]:
    """The images that `patterns` name, each a folder, a file or a glob.

    A relative pattern that matches nothing here is looked for in the folder `data`.

    Raises
    ------
    FlowsegError
        If a pattern names no image, or two images have one name and would be one in the results.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        place = Path(_locate(pattern, data))
        stores = [place] if place.exists() else [Path(hit) for hit in sorted(glob.glob(str(place)))]  # noqa: PTH207
        for path in stores if place.suffix.lower() == ".zarr" else find_images(place):
            other = found.setdefault(path.stem, path)
            if other.resolve() != path.resolve():
                raise FlowsegError(
                    f"has the same name as {other}",
                    file=path,
                    remedy="predict them one after the other, or rename one",
                )
    return list(found.values())


def _locate(pattern: str, data: str | os.PathLike[str]) -> str:
    inside = os.path.join(data, pattern)  # noqa: PTH118  (a glob is no path)
    for place in (pattern, inside):
        if Path(place).exists() or glob.glob(place):  # noqa: PTH207
            return place
    raise FlowsegError(
        f"is neither here nor in the data folder {os.fspath(data)!r}",
        file=pattern,
        remedy="name a folder, an image or a quoted glob",
    )


def find_models(paths: Sequence[str | os.PathLike[str]] | None, runs: Path = _RUNS) -> list[Path]:
    """The checkpoints to use.

    Parameters
    ----------
    paths : sequence of path or None
        Checkpoints; a run's folder, whose best checkpoint is meant; or a folder of several finished
        runs, such as a cross validation's. None: what finished last below `runs`, be it one run or
        all folds of a cross validation.
    runs : Path
        Where runs lie.

    Raises
    ------
    FlowsegError
        If there is none; the message says how to get one.
    """
    if paths is not None:
        return [model for path in paths for model in _models_at(Path(path))]
    finished = find_finished(runs, TRAINING, CROSS_VALIDATION)
    if not finished:
        raise FlowsegError(
            "holds no finished run, so there is no model",
            file=runs,
            remedy="train one (flowseg train --help), or name a checkpoint with --model",
        )
    return _models_at(finished[-1])


def _models_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FlowsegError("there is no such checkpoint", file=path)
    if (path / BEST).is_file():
        return [path / BEST]
    models = sorted(run / BEST for run in find_finished(path, TRAINING))
    models = [model for model in models if model.is_file()]
    if not models:
        raise FlowsegError(f"holds no {BEST} and no finished run", file=path)
    return models
