"""The outputs of an image: written here, or as bytes on the worker of a cluster, to be sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.flow.residuals import instance_scores
from flowseg.formats.writers import Formats, SegmentedImage
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import Prediction, Segmenter, postprocess, predict, preprocess
from flowseg.io.atomic import atomic_folder, atomic_path
from flowseg.io.image_source import ImageSource
from flowseg.reports.overlay import draw_cellprob, draw_flows, draw_overlay

Grey = NDArray[np.float32]

_MOSTLY_FLAT = 0.5
"""Share of equal pixels above which an image without a cell is warned of."""

_log = logging.getLogger(__name__)


def write_image(
    image: ImageSource, grey: Grey, prediction: Prediction, formats: Formats
) -> dict[str, Any]:
    """Write the files of an image; its part of those of all images."""
    labels, flows, cellprob = prediction.labels, prediction.flows, prediction.cellprob
    _warn_of_flat(image, grey, labels)
    return formats.write(
        SegmentedImage(
            image_id=image.image_id,
            file_name=image.file_name,
            labels=labels,
            cell_type=prediction.cell_type,
            image=grey,
            pixel_size=image.pixel_size,
            cellprob=cellprob,
            read_pixels=image.read,
            compute_scores=lambda: instance_scores(labels, flows, cellprob),
            pictures={
                "overlays": lambda: draw_overlay(grey, labels),
                "fields": lambda: np.hstack(
                    (draw_flows(flows, labels > 0), draw_cellprob(cellprob))
                ),
                "disagreement": lambda: _draw_disagreement(prediction),
            },
        )
    )


@dataclass(frozen=True)
class WrittenElsewhere:
    """The outputs of an image as a worker of a cluster sends them."""

    parts: Mapping[str, Any]
    """As `write_image` returns them."""
    files: Mapping[str, Mapping[str, bytes]]
    """By format what its file holds, as ``{"": content}``; or of a folder, such as a Zarr array,
    what each file below it holds, by its relative path."""
    log: list[tuple[str, int, str]]
    """What was logged about the image: logger, level, message."""


def segment_to_bytes(
    segmenter: Segmenter, image: ImageSource, options: SegmentOptions, formats: Formats
) -> WrittenElsewhere:
    """Segment an image and write its outputs, but for where they are to be."""
    with _collected_log() as log, TemporaryDirectory() as scratch:
        names = formats.paths.keys() - formats.collected().keys()
        folders: dict[str, Any] = {name: Path(scratch, name) for name in names}
        for folder in folders.values():
            folder.mkdir()
        here = replace(formats, **folders)
        nuclei = None if image.nuclei is None else image.nuclei.read()
        grey = preprocess(segmenter, image.read(), nuclei)
        prediction = postprocess(segmenter, predict(segmenter, grey, options))
        parts = write_image(image, grey if grey.ndim == 2 else grey[0], prediction, here)
        files = {name: _contents(path) for name, path in here.files(image.image_id).items()}
    return WrittenElsewhere(parts, files, log)


def write_bytes(
    image: ImageSource, written: WrittenElsewhere, formats: Formats
) -> Mapping[str, Any]:
    """Put the files of an image where they are to be; its part of those of all images."""
    for name, level, message in written.log:
        logging.getLogger(name).log(level, "%s", message)
    for name, path in formats.files(image.image_id).items():
        contents = written.files[name]
        if "" in contents:
            with atomic_path(path) as part:
                part.write_bytes(contents[""])
            continue
        with atomic_folder(path) as part:
            for relative, content in contents.items():
                (part / relative).parent.mkdir(parents=True, exist_ok=True)
                (part / relative).write_bytes(content)
    return written.parts


def _contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@contextmanager
def _collected_log() -> Iterator[list[tuple[str, int, str]]]:
    """What this thread logs within the block."""
    log: list[tuple[str, int, str]] = []
    thread = threading.get_ident()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                log.append((record.name, record.levelno, record.getMessage()))

    handler = Collect()
    logger = logging.getLogger("flowseg")
    logger.addHandler(handler)
    try:
        yield log
    finally:
        logger.removeHandler(handler)


def _warn_of_flat(image: ImageSource, grey: Grey, labels: NDArray[np.int32]) -> None:
    """Say so where nothing was found and most pixels have one value."""
    if not labels.any():
        share = float(np.unique(grey, return_counts=True)[1].max()) / grey.size
        if share > _MOSTLY_FLAT:
            _log.warning(
                "%s: no cell found, and %.0f %% of its pixels have one value",
                image.image_id,
                100 * share,
            )


def _draw_disagreement(prediction: Prediction) -> NDArray[np.uint8]:
    assert prediction.disagreement is not None
    return np.rint(np.clip(prediction.disagreement * 255, 0, 255)).astype(np.uint8)
