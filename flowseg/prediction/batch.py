"""Many image files through a segmenter; those that fail are reported and left out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.errors import FlowsegError
from flowseg.inference.options import SegmentOptions
from flowseg.inference.pipeline import Outcome, segment_many
from flowseg.inference.segmenter import Prediction, Segmenter
from flowseg.io.image_source import ImageSource, list_images
from flowseg.io.paths import check_name, image_names

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Batch:
    """Image files on their way through a segmenter, and the errors of those that failed."""

    def __init__(
        self,
        segmenter: Segmenter,
        files: Sequence[Path],
        progress: tqdm[Any],
        names: Mapping[Path, str] | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.files = files
        self.names = image_names(files) if names is None else names
        self.progress = progress
        self._errors: list[tuple[Path, FlowsegError]] = []

    @property
    def failed(self) -> tuple[FlowsegError, ...]:
        """The errors, in the order of the files."""
        ranks = {path: rank for rank, path in enumerate(self.files)}
        return tuple(error for _, error in sorted(self._errors, key=lambda pair: ranks[pair[0]]))

    def fail(self, error: FlowsegError, path: Path) -> None:
        """Report that an image cannot be done."""
        if error.file is None:
            error = error.at(path)
        self._errors.append((path, error))
        _log.error("left out: %s", error)
        self.progress.update()

    def images(self, path: Path, options: SegmentOptions) -> list[ImageSource]:
        """The images of a file; none where it cannot be read, which is reported."""
        try:
            name = check_name(self.names[path], file=path)
            images = list_images(path, options.channel, name)
            if options.nucleus_channel is None:
                return images
            nuclei = list_images(path, options.nucleus_channel, name)
            if len(nuclei) != len(images):
                raise FlowsegError(f"has {len(images)} images of cells, {len(nuclei)} of nuclei")
            pairs = zip(images, nuclei, strict=True)
            return [replace(image, nuclei=other) for image, other in pairs]
        except FlowsegError as error:
            self.fail(error, path)
            return []

    def segment(
        self,
        images: Iterable[ImageSource],
        options: SegmentOptions,
        write: Callable[[ImageSource, NDArray[np.float32], Prediction], Result],
        done: Callable[[ImageSource, Result], object],
    ) -> None:
        """Segment images side by side.

        `write` runs on several threads, as :func:`flowseg.inference.pipeline.segment_many` calls
        it; `done` takes each image that could be done and what `write` returned, in their order.
        """
        outcomes = segment_many(
            self.segmenter,
            images,
            options,
            read=ImageSource.read,
            read_nuclei=lambda image: None if image.nuclei is None else image.nuclei.read(),
            write=write,
            weight=lambda image: image.shape[0] * image.shape[1],
        )
        self.collect(outcomes, done)

    def collect(
        self,
        outcomes: Generator[Outcome[ImageSource, Result], None, None],
        done: Callable[[ImageSource, Result], object],
    ) -> None:
        """Take the outcomes of images; `done` as in `segment`."""
        with closing(outcomes):
            for outcome in outcomes:
                if outcome.error is not None:
                    self.fail(outcome.error, outcome.item.path)
                else:
                    done(outcome.item, outcome.get())
                    self.progress.update()
