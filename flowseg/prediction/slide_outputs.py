"""The outputs of an image larger than memory, written while its label image is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.errors import FlowsegError
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

_SUPPORTED = frozenset({"labels", "overlays"})

_OVERLAY_EDGE = 4000
"""Pixels; an overlay is not larger."""


def write_slide(
    segmenter: Segmenter,
    source: ImageSource,
    options: SegmentOptions,
    paths: Mapping[str, Path],
    cluster: Cluster | None = None,
) -> list[str]:
    """Segment a slide, here or on a cluster, and return its texts as `mask_texts` does.

    Its files may be "labels", a BigTIFF or a Zarr array, and "overlays", a PNG that is reduced to
    at most 4,000 pixels.
    """
    unsupported = sorted(paths.keys() - _SUPPORTED)
    if unsupported:
        raise FlowsegError(
            f"an image of {source.shape[1]} x {source.shape[0]} pixels is too large for anything "
            "but label images and overlays",
            remedy=f"leave out {', '.join(unsupported)}, or cut the image into smaller ones",
        )
    masks = RowMasks(source.shape[1])
    with (
        source.open_regions() as read_region,
        tqdm(total=source.shape[0], desc=source.image_id, unit="row", leave=False) as progress,
    ):
        read = _locked(read_region)
        plan = plan_slide(segmenter, read, source.shape, options)
        overlay = _Overlay(read, plan) if "overlays" in paths else None
        if cluster is None:
            computed = segment_slide(segmenter, read, plan)
        else:
            computed = cluster.segment(source, plan)

        def label_rows() -> Iterator[Ints]:
            for rows in computed:
                masks.add(rows)
                if overlay is not None:
                    overlay.add(rows)
                progress.update(len(rows))
                yield rows

        with closing(computed):
            if "labels" in paths:
                write_labels_by_rows(paths["labels"], label_rows(), source.shape)
            else:
                deque(label_rows(), maxlen=0)
        if overlay is not None:
            write_image(paths["overlays"], draw_overlay(overlay.grey, overlay.labels))
    return masks.masks().to_strings() or [""]


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
            self.grey[region] = self.plan.read_rescaled(self.read, self.grey.shape, region)
            self.labels[first:last] = rows[self.rows[first:last, None] - self.top, self.columns]
        self.top = bottom


def _locked(read: ReadRegion) -> ReadRegion:
    """One reader at a time: the networks' thread and the overlay's share the file."""
    lock = Lock()

    def locked(rows: slice, columns: slice) -> NDArray[Any]:
        with lock:
            return read(rows, columns)

    return locked
