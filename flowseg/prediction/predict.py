"""From image files to a submission, label images and pictures."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flowseg.errors import FlowsegError, as_user_error
from flowseg.flow.residuals import instance_scores
from flowseg.formats.cell_table import CellTable
from flowseg.formats.imagej_rois import load_roifile, write_rois
from flowseg.formats.seg_npy import write_seg
from flowseg.formats.submission import COLUMNS, mask_texts, write_submission
from flowseg.formats.writers import write_imagej_labels
from flowseg.inference.cluster import Cluster, connect
from flowseg.inference.options import SegmentOptions, check_options
from flowseg.inference.pipeline import segment_many
from flowseg.inference.segmenter import Prediction, Segmenter
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.image_source import ImageSource, list_images
from flowseg.io.images import write_image, write_labels
from flowseg.io.label_rows import write_labels_by_rows
from flowseg.io.paths import check_name
from flowseg.io.tables import write_table
from flowseg.io.zarr import load_zarr
from flowseg.prediction.journal import Journal, run_key
from flowseg.prediction.shards import Shard
from flowseg.prediction.slide_outputs import write_slide
from flowseg.reports.overlay import draw_cellprob, draw_flows, draw_overlay

__all__ = ["Machines", "Outputs", "Summary", "predict"]

_log = logging.getLogger(__name__)

_SLIDE = 2**24
"""Pixels above which an image is computed in blocks."""


@dataclass(frozen=True)
class Outputs:
    """What is written where.

    Attributes
    ----------
    submission : Path
        The CSV.
    labels, overlays, disagreement : Path or None
        Folders for label images, for pictures, and for maps of where networks and views disagree.
    rois, seg_npy, label_tiff : Path or None
        Folders for what other tools open; see :class:`flowseg.formats.writers.Formats`.
    fields : Path or None
        Folder for pictures of the flows (direction as hue) beside cellprob (as heat).
    cells : Path or None
        Folder for tables of the cells; see :class:`flowseg.formats.cell_table.CellTable`.
    labels_format : {"tiff", "zarr"}
        What label images are written as.
    """

    submission: Path
    labels: Path | None = None
    overlays: Path | None = None
    disagreement: Path | None = None
    rois: Path | None = None
    seg_npy: Path | None = None
    label_tiff: Path | None = None
    cells: Path | None = None
    fields: Path | None = None
    labels_format: Literal["tiff", "zarr"] = "tiff"

    def check(self) -> None:
        """Refuse what cannot be written, before work starts."""
        ensure_writable_folder(self.submission.parent)
        if self.submission.is_dir():
            raise FlowsegError("is a folder", file=self.submission, remedy="name a CSV file")
        for path in self.pictures("any").values():
            ensure_writable_folder(path.parent)
        if self.rois is not None:
            load_roifile()
        if self.labels is not None and self.labels_format == "zarr":
            load_zarr()

    def pictures(self, image_id: str) -> dict[str, Path]:
        """The files of one image by kind, as far as they are wanted."""
        named = {
            "labels": (self.labels, ".zarr" if self.labels_format == "zarr" else ".tif"),
            "overlays": (self.overlays, ".png"),
            "disagreement": (self.disagreement, ".png"),
            "rois": (self.rois, "_rois.zip"),
            "seg_npy": (self.seg_npy, "_seg.npy"),
            "label_tiff": (self.label_tiff, "_labels.tif"),
            "cells": (self.cells, "_cells.csv"),
            "fields": (self.fields, ".png"),
        }
        return {
            kind: folder / f"{image_id}{suffix}"
            for kind, (folder, suffix) in named.items()
            if folder is not None
        }


class Machines(NamedTuple):
    """How a job is spread over machines.

    Attributes
    ----------
    shard : Shard or None
        Do this part of the images only, and write a CSV of its own.
    dask : str or None
        Address of the Dask scheduler whose workers compute whole slides; "local" starts some here.
    """

    shard: Shard | None = None
    dask: str | None = None


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes
    ----------
    images, cells : int
        In the CSV.
    failed : tuple of FlowsegError
        One for each image that could not be done; it has no row in the CSV.
    submission : Path
        The CSV; of a shard its own.
    """

    images: int
    cells: int
    failed: tuple[FlowsegError, ...]
    submission: Path


def predict(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    images: Sequence[Path],
    outputs: Outputs,
    *,
    device: str = "auto",
    options: SegmentOptions = SegmentOptions(),  # noqa: B008
    tta: int = 1,
    compile: bool = False,
    machines: Machines = Machines(),  # noqa: B008
) -> Summary:
    """Find the cells of all images and write them.

    A run that is stopped leaves a journal beside the CSV; the same run started again takes what is
    finished from there.

    Parameters
    ----------
    models : path or sequence of path
        A checkpoint, or several that answer together.
    images : sequence of Path
        From :func:`flowseg.prediction.find_models.find_inputs`; their names without suffix are
        the ids, those of the pages of a TIFF with ``_0000`` and so on.
    outputs : Outputs
        What to write. The CSV appears when all images are done, the other files one by one.
    device : str
        "auto", "cpu", "cuda" or "mps".
    request : Request
        What is asked of every image.
    views, compile
        As for :class:`Segmenter`.
    machines : Machines
        Who else works on it; by default nobody.

    Returns
    -------
    Summary
        An image that cannot be done is reported and left out.

    Raises
    ------
    FlowsegError
        If the settings are wrong, or no image at all could be done.
    """
    paths = [models] if isinstance(models, str | os.PathLike) else list(models)
    segmenter = Segmenter.load(paths, device, tta=tta, compile=compile)
    check_options(segmenter.card, options)
    outputs.check()
    submission, shard = outputs.submission, machines.shard
    if shard is not None:
        images, submission = shard.part(images), shard.path(submission)
    settings = {
        "request": asdict(options),
        "views": tta,
        "device": [segmenter.device.type, str(segmenter.ensemble.dtype), compile],
        "pictures": {kind: str(path.resolve()) for kind, path in outputs.pictures("id").items()},
        "shard": shard,
    }
    key = run_key(paths, settings)
    journal = Journal(outputs.submission, key)
    try:
        job = _Job(segmenter, options, outputs, journal, images)
        dask = machines.dask
        with connect(dask, segmenter) if dask is not None else nullcontext() as cluster:
            job.run(cluster)
        done = [name for name in job.order if name in job.done]
        if not done and (shard is not None or not images):  # a part may hold nothing
            write_table(submission, pd.DataFrame(columns=COLUMNS))
            cells = 0
        elif not done:
            raise _nothing_done(job.failed)
        else:
            cells = write_submission(submission, ((name, journal.texts(name)) for name in done))
    except BaseException:
        journal.leave()
        raise
    journal.remove()
    return Summary(len(done), cells, job.failed, submission)


class _Job:
    """One run over many images, and what became of them."""

    def __init__(
        self,
        segmenter: Segmenter,
        options: SegmentOptions,
        outputs: Outputs,
        journal: Journal,
        images: Sequence[Path],
    ) -> None:
        self.segmenter = segmenter
        self.options = options
        self.outputs = outputs
        self.journal = journal
        self.images = images
        self.order: dict[str, Path] = {}
        self.done: set[str] = set()
        self.errors: list[tuple[Path, FlowsegError]] = []

    @property
    def failed(self) -> tuple[FlowsegError, ...]:
        """What went wrong, in the order of the images."""
        ranks = {path: rank for rank, path in enumerate(self.images)} if self.errors else {}
        return tuple(error for _, error in sorted(self.errors, key=lambda pair: ranks[pair[0]]))

    def run(self, cluster: Cluster | None) -> None:
        """Do all images; slides on the cluster, if there is one."""
        with (
            logging_redirect_tqdm(),
            tqdm(total=len(self.images), desc="predicting", unit="image") as self.progress,
        ):
            for large, pages in groupby(self._pages(), key=_is_slide):
                if large:
                    self._slides(pages, cluster)
                else:
                    self._images(pages)

    def _pages(self) -> Iterator[ImageSource]:
        """The images that are not finished yet."""
        for path in self.images:
            try:
                check_name(path.stem, file=path)
                pages = list_images(path)
            except FlowsegError as error:
                self._fail(error, path)
                continue
            self.progress.total = (self.progress.total or 0) + len(pages) - 1
            for page in pages:
                other = self.order.setdefault(page.image_id, path)
                if other != path:
                    self._fail(FlowsegError(f"has an image named as one of {other}"), path)
                elif self._finished(page):
                    self.done.add(page.image_id)
                    self.progress.update()
                else:
                    yield page

    def _finished(self, page: ImageSource) -> bool:
        pictures = self.outputs.pictures(page.image_id).values()
        return self.journal.holds(page.image_id, page.path) and all(p.exists() for p in pictures)

    def _images(self, pages: Iterable[ImageSource]) -> None:
        outcomes = segment_many(
            self.segmenter,
            pages,
            self.options,
            read=ImageSource.read,
            write=self._write,
            weight=lambda page: page.shape[0] * page.shape[1],
        )
        with closing(outcomes):
            for outcome in outcomes:
                if outcome.error is not None:
                    self._fail(outcome.error, outcome.item.path)
                else:
                    self._keep(outcome.item, outcome.result or [])

    def _write(
        self, page: ImageSource, grey: NDArray[np.float32], prediction: Prediction
    ) -> list[str]:
        """Write an image's files; its row texts."""
        pictures = self.outputs.pictures(page.image_id)
        if "labels" in pictures and self.outputs.labels_format == "zarr":
            write_labels_by_rows(pictures["labels"], iter([prediction.labels]), page.shape)
        elif "labels" in pictures:
            write_labels(pictures["labels"], prediction.labels)
        if "overlays" in pictures:
            write_image(pictures["overlays"], draw_overlay(grey, prediction.labels))
        if "disagreement" in pictures and prediction.disagreement is not None:
            apart = np.clip(prediction.disagreement * 255, 0, 255)
            write_image(pictures["disagreement"], np.rint(apart).astype(np.uint8))
        if "fields" in pictures:
            hues = draw_flows(prediction.flows, prediction.labels > 0)
            write_image(pictures["fields"], np.hstack((hues, draw_cellprob(prediction.cellprob))))
        if "rois" in pictures:
            write_rois(pictures["rois"], prediction.labels)
        if "seg_npy" in pictures:
            path, name = pictures["seg_npy"], page.path.name
            write_seg(path, prediction.labels, file_name=name, image=grey)
        if "label_tiff" in pictures:
            write_imagej_labels(pictures["label_tiff"], prediction.labels)
        if "cells" in pictures:
            table = CellTable()
            sure = instance_scores(
                prediction.labels, prediction.flows, prediction.cellprob
            ).tolist()
            labels, cell_type = prediction.labels, prediction.cell_type
            table.add(page.image_id, labels, cell_type, prediction.cellprob, sure)
            table.write(pictures["cells"])
        return mask_texts(page.image_id, prediction.labels, self.outputs.submission)

    def _slides(self, pages: Iterable[ImageSource], cluster: Cluster | None) -> None:
        for page in pages:
            try:
                pictures = self.outputs.pictures(page.image_id)
                texts = write_slide(self.segmenter, page, self.options, pictures, cluster)
                self._keep(page, texts)
            except Exception as error:
                known = as_user_error(error)
                if known is None:
                    raise
                self._fail(known, page.path)

    def _keep(self, page: ImageSource, texts: Sequence[str]) -> None:
        self.journal.add(page.image_id, page.path, texts)
        self.done.add(page.image_id)
        self.progress.update()

    def _fail(self, error: FlowsegError, path: Path) -> None:
        if error.file is None:
            error = FlowsegError(error.problem, file=path, remedy=error.remedy)
        self.errors.append((path, error))
        _log.error("left out: %s", error)
        self.progress.update()


def _is_slide(page: ImageSource) -> bool:
    return page.shape[0] * page.shape[1] > _SLIDE


def _nothing_done(failed: Sequence[FlowsegError]) -> FlowsegError:
    if len(failed) == 1:
        return failed[0]
    return FlowsegError(f"none of {len(failed)} images could be done; the first: {failed[0]}")
