"""From image files to a submission, label images and the formats of other tools."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flowseg.errors import FlowsegError, as_user_error
from flowseg.formats.writers import Formats
from flowseg.inference.cluster import Cluster, connect
from flowseg.inference.options import SegmentOptions, check_options
from flowseg.inference.segmenter import Prediction, Segmenter
from flowseg.io.image_source import ImageSource
from flowseg.io.outputs import claim_outputs
from flowseg.io.paths import PathLike, find_images, image_names
from flowseg.prediction.batch import Batch
from flowseg.prediction.find_models import find_models
from flowseg.prediction.image_outputs import (
    Grey,
    WrittenElsewhere,
    segment_to_bytes,
    write_bytes,
    write_image,
)
from flowseg.prediction.journal import Journal, run_key
from flowseg.prediction.shards import Shard
from flowseg.prediction.slide_outputs import write_slide
from flowseg.prediction.timing import Pace

_log = logging.getLogger(__name__)

_SLIDE = 2**24
"""Pixels above which an image is computed in blocks."""


@dataclass(frozen=True)
class Distribution:
    """How a prediction is distributed over machines."""

    shard: Shard | None = None
    """Do this part of the images only, and write a CSV of its own."""
    dask: str | None = None
    """Address of the Dask scheduler whose workers do the work; "local" starts some here."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes
    ----------
    images, cells : int
        In the CSV.
    failed : tuple of FlowsegError
        One for each image that could not be done; it has no row in the CSV, or a blank one.
    submission : Path
        The CSV; of a shard its own.
    """

    images: int
    cells: int
    failed: tuple[FlowsegError, ...]
    submission: Path


def predict(
    models: PathLike | Sequence[PathLike],
    images: PathLike | Sequence[PathLike],
    outputs: PathLike | Formats,
    *,
    device: str = "auto",
    options: SegmentOptions = SegmentOptions(),  # noqa: B008
    tta: int = 1,
    compile: bool = False,
    distribution: Distribution = Distribution(),
) -> Summary:
    """Find the cells of all images and write them.

    A run that is stopped leaves a journal beside the CSV; the same run started again goes on from
    there.

    Parameters
    ----------
    models : path or sequence of path
        A checkpoint, or a run's or a cross validation's folder; several models are averaged.
    images : path or sequence of path
        A folder, a glob or a file; or a list of files, such as that of
        :func:`flowseg.io.paths.find_inputs`. Their names without suffix are the image ids; those
        of the pages of a TIFF end in ``_0000`` and so on.
    outputs : path or Formats
        The submission CSV, or all that is to be written, a submission among it. Files of all
        images appear when the last image is done, the others one by one.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    options : SegmentOptions
        The same for every image.
    tta, compile
        As for :class:`Segmenter`.
    distribution : Distribution
        Over machines; by default all is done here.

    Returns
    -------
    Summary
        An image that cannot be done is reported and left out, or blank (``Formats.blank_failed``).

    Raises
    ------
    FlowsegError
        If the settings are wrong, or no image at all could be done.

    Examples
    --------
    >>> found = predict("runs/all-fold0", "images", "submission.csv")  # doctest: +SKIP
    >>> outputs = Formats(submission="submission.csv", labels="labels", coco="cells.json")
    >>> found = predict("runs/all-fold0", "images", outputs)  # doctest: +SKIP
    """
    checkpoints = find_models([models] if isinstance(models, str | os.PathLike) else models)
    if isinstance(images, str | os.PathLike):
        images = find_images(images)
    files = [Path(image) for image in images]
    formats = outputs if isinstance(outputs, Formats) else Formats(submission=outputs)
    shard, dask = distribution.shard, distribution.dask
    submission = _check_outputs(formats, shard)
    options = replace(options, disagreement=options.disagreement or bool(formats.disagreement))
    inputs = [*files, *checkpoints]
    names = image_names(files)
    if shard is not None:
        files = list(shard.part(files))
        formats = replace(formats, submission=shard.path(submission))
    image_ids = dict.fromkeys(names[path] for path in files)
    with claim_outputs(formats.outputs(image_ids), inputs):
        segmenter = Segmenter.load(checkpoints, device, tta=tta, compile=compile)
        check_options(segmenter.card, options)
        formats.check()
        settings = {
            "options": asdict(options),
            "tta": tta,
            "device": [segmenter.device.type, str(segmenter.ensemble.dtype), compile],
            "outputs": {name: str(path.resolve()) for name, path in formats.paths.items()},
            "labels_format": formats.labels_format,
            "shard": shard,
        }
        journal = Journal(submission, run_key(checkpoints, settings))
        try:
            with (
                logging_redirect_tqdm(),
                tqdm(total=len(files), desc="predicting", unit="image") as progress,
            ):
                job = _Job(Batch(segmenter, files, progress, names), options, formats, journal)
                with connect(dask, segmenter) if dask is not None else nullcontext() as cluster:
                    job.run(cluster)
            summary = job.close(empty=shard is not None or not files)
        except BaseException:
            journal.leave()
            raise
        journal.remove()
        return summary


def _check_outputs(formats: Formats, shard: Shard | None) -> Path:
    """The path of the submission."""
    if formats.submission is None:
        raise FlowsegError("no submission to write", remedy="name a CSV file")
    others = sorted(formats.collected().keys() - {"submission"})
    if shard is not None and others:
        raise FlowsegError(
            f"a shard cannot write {' and '.join(others)}: one file holds all images",
            remedy="let the shards write label images, and export these",
        )
    return Path(formats.submission)


class _Job:
    """One prediction of many images."""

    def __init__(
        self, batch: Batch, options: SegmentOptions, formats: Formats, journal: Journal
    ) -> None:
        self.batch = batch
        self.options = options
        self.formats = formats
        self.journal = journal
        self.order: dict[str, Path] = {}
        self.done: set[str] = set()
        self.pace = Pace(len(batch.files))

    def run(self, cluster: Cluster | None) -> None:
        """Do all images, on the cluster if there is one."""
        for large, images in groupby(self._unfinished(), key=_is_slide):
            if large:
                for image in images:
                    self._write_slide(image, cluster)
            elif cluster is None:
                self.batch.segment(images, self.options, self._write, self._keep)
            else:
                work = partial(segment_to_bytes, options=self.options, formats=self.formats)
                self.batch.collect(cluster.map(images, work), self._write_bytes)

    def close(self, *, empty: bool) -> Summary:
        """Write the files of all images; without any these are `empty`, or it is an error."""
        done = [name for name in self.order if name in self.done]
        failed = self.batch.failed
        if not done and not empty:
            if len(failed) == 1:
                raise failed[0]
            first = f"none of {len(failed)} images could be done; the first: {failed[0]}"
            raise FlowsegError(first)
        self.formats.write_collected(self._parts)
        cells = sum(bool(t) for name in done for t in self.journal.parts(name)["submission"][1])
        submission = self.formats.paths["submission"]
        return Summary(images=len(done), cells=cells, failed=failed, submission=submission)

    def _parts(self) -> Iterator[Mapping[str, Any]]:
        """What was written of each image, in order; a blank row of one that failed, if asked."""
        listed: dict[Path, list[str]] = {}
        for image_id, path in self.order.items():
            listed.setdefault(path, []).append(image_id)
        for path in self.batch.files:
            name = self.batch.names[path]
            for image_id in listed.get(path, [] if name in self.order else [name]):
                if image_id in self.done:
                    yield self.journal.parts(image_id)
                elif self.formats.blank_failed:
                    yield {"submission": [image_id, [""]]}

    def _unfinished(self) -> Iterator[ImageSource]:
        """The images that are not finished yet."""
        progress = self.batch.progress
        for path in self.batch.files:
            images = self.batch.images(path, self.options)
            progress.total = (progress.total or 0) + max(0, len(images) - 1)
            for image in images:
                other = self.order.setdefault(image.image_id, path)
                if other != path:
                    self.batch.fail(FlowsegError(f"has an image named as one of {other}"), path)
                elif self._is_finished(image):
                    self.done.add(image.image_id)
                    progress.update()
                else:
                    yield image

    def _is_finished(self, image: ImageSource) -> bool:
        files = self.formats.files(image.image_id).values()
        return self.journal.holds(image.image_id, image.path) and all(f.exists() for f in files)

    def _write(self, image: ImageSource, grey: Grey, prediction: Prediction) -> dict[str, Any]:
        return write_image(image, grey, prediction, self.formats)

    def _write_bytes(self, image: ImageSource, written: WrittenElsewhere) -> None:
        self._keep(image, write_bytes(image, written, self.formats))

    def _write_slide(self, image: ImageSource, cluster: Cluster | None) -> None:
        try:
            parts = write_slide(self.batch.segmenter, image, self.options, self.formats, cluster)
        except Exception as error:
            known = as_user_error(error)
            if known is None:
                raise
            self.batch.fail(known, image.path)
        else:
            self._keep(image, parts)
            self.batch.progress.update()

    def _keep(self, image: ImageSource, parts: Mapping[str, Any]) -> None:
        self.journal.add(image.image_id, image.path, parts)
        self.done.add(image.image_id)
        self.pace.count()


def _is_slide(image: ImageSource) -> bool:
    return image.shape[0] * image.shape[1] > _SLIDE
