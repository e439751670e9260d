"""Labels from a model for images without: the cells it is sure of, as a folder to train on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flowseg._version import __version__
from flowseg.arrays.labels import keep_largest_component, renumber
from flowseg.data.folder import TYPE_TABLE
from flowseg.data.sartorius import CELL_TYPES
from flowseg.errors import FlowsegError
from flowseg.flow.residuals import instance_scores
from flowseg.inference.options import SegmentOptions, check_options, settings_for
from flowseg.inference.pipeline import segment_many
from flowseg.inference.segmenter import Prediction, Segmenter
from flowseg.io.atomic import atomic_folder, ensure_writable_folder, write_text
from flowseg.io.image_source import ImageSource, list_images
from flowseg.io.images import write_labels
from flowseg.io.paths import check_name
from flowseg.io.tables import write_table
from flowseg.prediction.journal import run_key
from flowseg.reports.text import text_table

__all__ = [
    "Limits",
    "Pseudo",
    "PseudoLabels",
    "pseudo_label",
    "report",
    "sure_cells",
    "type_of_name",
]

MADE_FROM = "origin.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What counts as sure.

    Attributes
    ----------
    score : float
        Cells below it are dropped; see :func:`flowseg.flow.residuals.instance_scores`. From 0 to 1.
    share : float
        An image is left out where the cells that are kept cover less than this share of what the
        model takes for cells: the rest would be taught as background. From 0 to 1.
    """

    score: float = 0.7
    share: float = 0.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise FlowsegError(f"the smallest {name} must be from 0 to 1, not {value:g}")


class Pseudo(NamedTuple):
    """One image; a row of `cell_types.csv`.

    Attributes
    ----------
    id, cell_type : str
    cells, found : int
        How many cells were kept, and how many found.
    share : float
        What the kept cells cover of what the model takes for cells.
    """

    id: str
    cell_type: str
    cells: int
    found: int
    share: float


@dataclass(frozen=True)
class PseudoLabels:
    """What was labelled.

    Attributes
    ----------
    kept, left_out : tuple of Pseudo
        The images in the folder, and those of which too little was sure or whose cell type the
        model does not know; sorted by id.
    failed : tuple of FlowsegError
        One for each image that could not be done.
    """

    kept: tuple[Pseudo, ...]
    left_out: tuple[Pseudo, ...]
    failed: tuple[FlowsegError, ...]


def pseudo_label(
    models: Sequence[str | os.PathLike[str]],
    images: Sequence[Path],
    out: str | os.PathLike[str],
    *,
    cell_type: str | None = None,
    limits: Limits = Limits(),
    tta: int = 1,
    device: str = "auto",
) -> PseudoLabels:
    """Label images with a model and write those it is sure of as a folder to train on.

    Parameters
    ----------
    models : sequence of path
        Checkpoints that answer together.
    images : sequence of Path
        From :func:`flowseg.prediction.find_models.find_inputs`.
    out : path
        The folder to make: ``images/``, ``masks/``, `cell_types.csv` and `origin.json`, as
        :func:`flowseg.data.folder.read_folder` reads it. It appears when all is done.
    cell_type : str, optional
        Of all images; by default that of :func:`type_of_name`, else the model names it. A model
        of some of the competition's cell types leaves out what is named after the others.
    limits : Limits
        What counts as sure.
    views, device
        As for :class:`Segmenter`.

    Returns
    -------
    PseudoLabels
        An image that cannot be done is reported and left out.

    Raises
    ------
    FlowsegError
        If the settings are wrong, `out` is not empty, or nothing at all is sure.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FlowsegError("is no empty folder", file=out, remedy="name another with --out")
    ensure_writable_folder(out.parent)
    segmenter = Segmenter.load(models, device, tta=tta)
    check_options(segmenter.card, SegmentOptions(cell_type=cell_type))
    settings = {**asdict(limits), "cell_type": cell_type, "views": tta}
    origin = {"flowseg": __version__, "models": [str(model) for model in models], **settings}
    origin["key"] = run_key(models, settings)
    with atomic_folder(out) as part:
        for name in ("images", "masks"):
            (part / name).mkdir(parents=True)
        job = _Job(segmenter, limits, part)
        job.run(images, cell_type)
        if not job.kept:
            raise _nothing_kept(job)
        write_text(part / MADE_FROM, json.dumps(origin, indent=2) + "\n")
        write_table(part / TYPE_TABLE, pd.DataFrame(sorted(job.kept)))
    left_out = sorted([*job.left_out, *job.unknown])
    return PseudoLabels(tuple(sorted(job.kept)), tuple(left_out), tuple(job.failed))


def report(result: PseudoLabels) -> str:
    """A table of what was kept, by cell type."""
    rows = []
    for name in sorted({row.cell_type for row in (*result.kept, *result.left_out)}):
        kept = [row for row in result.kept if row.cell_type == name]
        left = sum(row.cell_type == name for row in result.left_out)
        cells, found = sum(row.cells for row in kept), sum(row.found for row in kept)
        rows.append((name, len(kept), left, cells, found))
    return text_table(rows, ["cell type", "images", "left out", "cells", "of found"])


def type_of_name(name: str, known: Iterable[str]) -> str | None:
    """The cell type that a file's name begins with, as those of the competition do.

    Examples
    --------
    >>> type_of_name("astros[cereb]_E10-4_Vessel-714", ["shsy5y", "astro", "cort"])
    'astro'
    >>> type_of_name("well7", ["shsy5y", "astro", "cort"])
    """
    begun = [cell_type for cell_type in known if name.lower().startswith(cell_type.lower())]
    return max(begun, key=len, default=None)


def sure_cells(
    prediction: Prediction, cellprob_threshold: float, score: float
) -> tuple[NDArray[np.int32], float]:
    """The cells of a prediction whose score is at least `score`.

    Parameters
    ----------
    prediction : Prediction
    cellprob_threshold : float
        The one that the prediction was made with.
    score : float
        From 0 to 1; see :func:`flowseg.flow.residuals.instance_scores`.

    Returns
    -------
    labels : ndarray, shape (H, W), int32
        Numbered without gaps.
    share : float
        What they cover of the pixels that the model takes for cells, those of no cell included;
        0 where there are none.
    """
    labels, flows, cellprob = prediction[:3]
    sure = np.concatenate(([False], instance_scores(labels, flows, cellprob) >= score))
    kept = renumber(keep_largest_component(np.where(sure[labels], labels, 0)))
    taken = int(np.count_nonzero((labels > 0) | (cellprob > cellprob_threshold)))
    return kept, int(np.count_nonzero(kept)) / max(taken, 1)


class _Job:
    """One run over many images, and what became of them."""

    def __init__(self, segmenter: Segmenter, limits: Limits, folder: Path) -> None:
        self.segmenter, self.limits, self.folder = segmenter, limits, folder
        self.kept: list[Pseudo] = []
        self.left_out: list[Pseudo] = []
        self.unknown: list[Pseudo] = []
        self.failed: list[FlowsegError] = []

    def run(self, images: Sequence[Path], cell_type: str | None) -> None:
        """Do all images, those of one cell type together."""
        known = self.segmenter.card.cell_types
        # Only a model of the competition knows what the names of its images mean.
        types = {*known} if {*known}.isdisjoint(CELL_TYPES) else {*known, *CELL_TYPES}
        groups: dict[str | None, list[Path]] = {}
        for path in images:
            name = cell_type or type_of_name(path.stem, types)
            groups.setdefault(name, []).append(path)
        for name in sorted({name for name in groups if name is not None} - {*known}):
            paths = groups.pop(name)
            _log.warning("%d images left out: %s is none of the model's", len(paths), name)
            self.unknown += [Pseudo(path.stem, name, 0, 0, 0.0) for path in paths]
        images = [path for paths in groups.values() for path in paths]
        with (
            logging_redirect_tqdm(),
            tqdm(total=len(images), desc="labelling", unit="image") as self.progress,
        ):
            for name, paths in groups.items():
                self._images(paths, SegmentOptions(cell_type=name))

    def _images(self, paths: Iterable[Path], options: SegmentOptions) -> None:
        outcomes = segment_many(
            self.segmenter,
            self._pages(paths),
            options,
            read=ImageSource.read,
            write=self._write,
            weight=lambda page: page.shape[0] * page.shape[1],
        )
        with closing(outcomes):
            for outcome in outcomes:
                if outcome.error is not None:
                    self._fail(outcome.error, outcome.item.path)
                    continue
                row = outcome.get()
                (self.kept if self._suffices(row) else self.left_out).append(row)
                self.progress.update()

    def _pages(self, paths: Iterable[Path]) -> Iterator[ImageSource]:
        for path in paths:
            try:
                check_name(path.stem, file=path)
                pages = list_images(path)
                if not path.is_file() or len(pages) != 1:
                    raise FlowsegError(
                        "is no file of one image", file=path, remedy="save each image as a file"
                    )
            except FlowsegError as error:
                self._fail(error, path)
            else:
                yield pages[0]

    def _write(self, page: ImageSource, _: Any, prediction: Prediction) -> Pseudo:
        """Copy the image and write its labels, if enough of it is sure."""
        settings = settings_for(self.segmenter.card, prediction.cell_type)
        labels, share = sure_cells(prediction, settings.cellprob_threshold, self.limits.score)
        found, name = int(prediction.labels.max(initial=0)), page.path.stem
        cells = int(labels.max(initial=0))
        row = Pseudo(name, prediction.cell_type, cells, found, round(share, 4))
        if self._suffices(row):
            shutil.copyfile(page.path, self.folder / "images" / page.path.name)
            write_labels(self.folder / "masks" / f"{name}_masks.tif", labels)
        return row

    def _suffices(self, row: Pseudo) -> bool:
        return row.cells > 0 and row.share >= self.limits.share

    def _fail(self, error: FlowsegError, path: Path) -> None:
        if error.file is None:
            error = FlowsegError(error.problem, file=path, remedy=error.remedy)
        self.failed.append(error)
        _log.error("left out: %s", error)
        self.progress.update()


def _nothing_kept(job: _Job) -> FlowsegError:
    if job.failed and not job.left_out:
        return job.failed[0]
    if job.unknown and not job.left_out:
        types = ", ".join(sorted({row.cell_type for row in job.unknown}))
        return FlowsegError(
            f"all images are named after cell types that the model does not know: {types}",
            remedy="say with --cell-type what they show, or take a model of these types",
        )
    return FlowsegError(
        f"of none of {len(job.left_out)} images enough is sure",
        remedy="lower --min-score or --min-share, or train the model for longer",
    )
