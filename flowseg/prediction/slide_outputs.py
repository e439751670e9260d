"""The outputs of an image larger than memory, written while its label image is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.intensity import normalize, to_grey
from flowseg.errors import FlowsegError
from flowseg.formats.writers import Formats, SegmentedImage
from flowseg.inference.blocks import RowMasks
from flowseg.inference.cluster import Cluster
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import SlidePlan, plan_slide, segment_slide
from flowseg.io.image_source import ImageSource, ReadRegion
from flowseg.io.images import write_image
from flowseg.io.label_rows import write_labels_by_rows
from flowseg.reports.overlay import draw_overlay

Ints = NDArray[np.int32]

_IN_MEMORY = 2**28
"""Pixels up to which the labels are kept for the formats that need all of them at once."""

_OVERLAY_EDGE = 4000
"""Pixels; an overlay is not larger."""


def write_slide(
    segmenter: Segmenter,
    source: ImageSource,
    options: SegmentOptions,
    formats: Formats,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Segment a slide, here or on a cluster, write its files, and return what `Formats.write` does.

    Label images (a BigTIFF or a Zarr array), overlays (reduced to at most 4,000 pixels) and the
    submission are written of images of any size, other formats of at most 268 million pixels;
    of these cellprob and scores are blank. Pictures of flows are never drawn.
    """
    paths = formats.files(source.image_id)
    whole = replace(formats, submission=None, labels=None, overlays=None)
    _check(source, whole)
    kept = np.zeros(source.shape, np.int32) if whole.paths else None
    masks = RowMasks(source.shape[1])
    with (
        source.open_planes() as regions,
        tqdm(total=source.shape[0], desc=source.image_id, unit="row", leave=False) as progress,
    ):
        reads = [_locked(read) for read in regions]
        plan = plan_slide(segmenter, reads, source.shape, options)
        overlay = _Overlay(reads[0], plan) if "overlays" in paths else None
        if cluster is None:
            computed = segment_slide(segmenter, reads, plan)
        else:
            computed = cluster.segment(source, plan)

        def label_rows() -> Iterator[Ints]:
            top = 0
            for rows in computed:
                masks.add(rows)
                if kept is not None:
                    kept[top : top + len(rows)] = rows
                    top += len(rows)
                if overlay is not None:
                    overlay.add(rows)
                progress.update(len(rows))
                yield rows

        with closing(computed):
            if "labels" in paths:
                write_labels_by_rows(paths["labels"], label_rows(), source.shape, source.pixel_size)
            else:
                deque(label_rows(), maxlen=0)
        if overlay is not None:
            write_image(paths["overlays"], draw_overlay(overlay.grey, overlay.labels))
        parts = {"submission": [source.image_id, masks.masks().to_strings() or [""]]}
        if kept is not None:
            shown = whole.seg_npy is not None
            parts |= whole.write(
                SegmentedImage(
                    image_id=source.image_id,
                    file_name=source.file_name,
                    labels=kept,
                    cell_type=plan.cell_type,
                    image=normalize(to_grey(source.read()), plan.spans[0]) if shown else None,
                    pixel_size=source.pixel_size,
                    read_pixels=source.read,
                )
            )
    return parts


def _check(source: ImageSource, whole: Formats) -> None:
    """Refuse formats that a slide of this size does not give."""
    names = sorted(whole.paths)
    if source.shape[0] * source.shape[1] <= _IN_MEMORY:
        names = [name for name in names if name in ("fields", "disagreement")]
    if names:
        raise FlowsegError(
            f"an image of {source.shape[1]} x {source.shape[0]} pixels is too large for "
            f"{', '.join(names)}",
            remedy="leave that out, cut the image into smaller ones, or save label images and run "
            "flowseg export --labels on them",
        )


class _Overlay:
    """The slide and its labels at reduced size, as far as its rows have come."""

    def __init__(self, read: ReadRegion, plan: SlidePlan) -> None:
        self.read = read
        self.plan = plan
        zoom = min(1.0, _OVERLAY_EDGE / max(plan.shape))
        height, width = (max(1, round(edge * zoom)) for edge in plan.shape)
        self.grey = np.zeros((height, width), np.float32)
        self.labels = np.zeros((height, width), np.int32)
        # A reduced pixel has the label at its centre.
        self.rows, self.columns = (
            (2 * np.arange(new) + 1) * old // (2 * new)
            for new, old in zip((height, width), plan.shape, strict=True)
        )
        self.top = 0

    def add(self, rows: Ints) -> None:
        """Take the next rows of the slide's label image."""
        bottom = self.top + len(rows)
        first, last = np.searchsorted(self.rows, (self.top, bottom)).tolist()
        if first < last:
            region = slice(first, last), slice(0, self.grey.shape[1])
            self.grey[region] = self.plan.read_rescaled(
                self.read, self.plan.spans[0], self.grey.shape, region
            )
            self.labels[first:last] = rows[self.rows[first:last, None] - self.top, self.columns]
        self.top = bottom


def _locked(read: ReadRegion) -> ReadRegion:
    """One reader at a time: the networks' thread and the overlay's share the file."""
    lock = Lock()

    def locked(rows: slice, columns: slice) -> NDArray[Any]:
        with lock:
            return read(rows, columns)

    return locked
