"""From image files to a submission, label images and pictures."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.errors import FlowsegError
from flowseg.export.submission import write_submission
from flowseg.files import (
    ensure_writable_folder,
    find_images,
    read_image,
    write_image,
    write_labels,
)
from flowseg.image import normalize, to_grey
from flowseg.inference.segmenter import Segmenter
from flowseg.overlay import draw_overlay

__all__ = ["Outputs", "find_inputs", "find_model", "predict"]

_RUNS = Path("runs")
_BEST = "best.safetensors"
_SUMMARY = "summary.json"


@dataclass(frozen=True)
class Outputs:
    """What is written where.

    Attributes
    ----------
    submission : Path
        The CSV.
    labels, overlays : Path or None
        Folders for label TIFFs and for pictures.
    """

    submission: Path
    labels: Path | None = None
    overlays: Path | None = None


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
        for path in find_images(_locate(pattern, data)):
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


def find_model(path: str | os.PathLike[str] | None, runs: Path = _RUNS) -> Path:
    """The checkpoint to use.

    Parameters
    ----------
    path : path or None
        A checkpoint, or a run's folder, whose best checkpoint is meant. None: that of the run
        below `runs` that finished last.
    runs : Path
        Where runs lie.

    Raises
    ------
    FlowsegError
        If there is none; the message says how to get one.
    """
    if path is not None:
        path = Path(path)
        if path.is_dir():
            if not (path / _BEST).is_file():
                raise FlowsegError(f"holds no {_BEST}", file=path, remedy="name a run's folder")
            return path / _BEST
        if not path.is_file():
            raise FlowsegError("there is no such checkpoint", file=path)
        return path
    finished = [
        summary
        for summary in runs.glob(f"*/{_SUMMARY}")
        if _stage(summary) == "training" and (summary.parent / _BEST).is_file()
    ]
    if not finished:
        raise FlowsegError(
            "holds no finished run, so there is no model",
            file=runs,
            remedy="train one (flowseg train --help), or name a checkpoint with --model",
        )
    newest = max(finished, key=lambda summary: (summary.stat().st_mtime_ns, summary.parent.name))
    return newest.parent / _BEST


def predict(
    model: str | os.PathLike[str],
    images: Sequence[Path],
    outputs: Outputs,
    *,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Find the cells of all images and write them.

    Parameters
    ----------
    model : path
        A checkpoint.
    images : sequence of Path
        From :func:`find_inputs`; their names without suffix are the ids.
    outputs : Outputs
        What to write. The CSV appears when all images are done, the other files one by one.
    device : str
        "auto", "cpu", "cuda" or "mps".
    overrides : mapping, optional
        Keyword arguments of :meth:`Segmenter.segment`; None values are the card's.

    Returns
    -------
    int
        Cells found.
    """
    segmenter = Segmenter.load(model, device)
    settings = dict(overrides or {})
    if settings.get("cell_type") is not None:
        segmenter.needs(settings["cell_type"])
    ensure_writable_folder(outputs.submission.parent)
    if outputs.submission.is_dir():
        raise FlowsegError("is a folder", file=outputs.submission, remedy="name a CSV file")
    for folder in (outputs.labels, outputs.overlays):
        if folder is not None:
            ensure_writable_folder(folder)

    def found() -> Iterator[tuple[str, NDArray[np.int32]]]:
        for path in tqdm(images, desc="predicting", unit="image"):
            image = read_image(path)
            try:
                labels = segmenter.segment(image, **settings).labels
            except FlowsegError as error:
                if error.file is not None:
                    raise
                raise FlowsegError(error.problem, file=path, remedy=error.remedy) from error
            if outputs.labels is not None:
                write_labels(outputs.labels / f"{path.stem}.tif", labels)
            if outputs.overlays is not None:
                picture = draw_overlay(normalize(to_grey(image)), labels)
                write_image(outputs.overlays / f"{path.stem}.png", picture)
            yield path.stem, labels

    return write_submission(outputs.submission, found())


def _stage(summary: Path) -> str | None:
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("stage") if isinstance(content, dict) else None
