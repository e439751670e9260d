"""One image larger than memory: its label image, its picture and its rows, as its strips come."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.errors import FlowsegError
from flowseg.inference.blocks import RowMasks
from flowseg.inference.segmenter import Segmenter, SegmentOptions
from flowseg.inference.slides import SlidePlan, plan_slide, segment_slide
from flowseg.io.image_source import ImageSource, ReadRegion
from flowseg.io.images import write_image
from flowseg.io.label_rows import write_labels_by_rows
from flowseg.reports.overlay import draw_overlay

__all__ = ["SegmentSlide", "here", "write_slide"]

Ints = NDArray[np.int32]

SegmentSlide = Callable[
    [Segmenter, ImageSource, ReadRegion, SlidePlan], Generator[Ints, None, None]
]
"""Who computes: from a slide, a way to read it and its plan to its labels in strips."""

_KINDS = frozenset({"labels", "overlays"})

_EDGE = 4000
"""Pixels; a picture is not larger."""


def here(
    segmenter: Segmenter,
    page: ImageSource,  # noqa: ARG001
    read: ReadRegion,
    plan: SlidePlan,
) -> Generator[Ints, None, None]:
    """Compute on this machine."""
    return segment_slide(segmenter, read, plan)


def write_slide(
    segmenter: Segmenter,
    page: ImageSource,
    options: SegmentOptions,
    pictures: Mapping[str, Path],
    compute: SegmentSlide = here,
) -> list[str]:
    """Find the cells of a slide, write its files, and return its row texts.

    Parameters
    ----------
    segmenter : Segmenter
    page : Page
    request : Request
    pictures : mapping
        Files by kind: "labels", a BigTIFF or a Zarr array, and "overlays", a picture that is
        reduced to at most 4,000 pixels.
    compute : callable
        Who computes the strips; by default this machine.

    Raises
    ------
    FlowsegError
        For other kinds of files, or if the slide cannot be read.
    """
    others = sorted(pictures.keys() - _KINDS)
    if others:
        raise FlowsegError(
            f"an image of {page.shape[1]} x {page.shape[0]} pixels is too large for anything but "
            f"label images and overlays",
            remedy=f"leave out {', '.join(others)}, or cut the image into smaller ones",
        )
    masks = RowMasks(page.shape[1])
    watching: list[Callable[[Ints], Any]] = [masks.add]
    with (
        page.open_regions() as read_region,
        tqdm(total=page.shape[0], desc=page.image_id, unit="row", leave=False) as bar,
    ):
        read = _one_at_a_time(read_region)
        plan = plan_slide(segmenter, read, page.shape, options)
        picture = _Picture(read, plan) if "overlays" in pictures else None
        if picture is not None:
            watching.append(picture.add)
        watching.append(lambda strip: bar.update(len(strip)))
        with closing(compute(segmenter, page, read, plan)) as computed:
            strips = _watched(computed, watching)
            if "labels" in pictures:
                write_labels_by_rows(pictures["labels"], strips, page.shape)
            else:
                for _ in strips:
                    pass
        if picture is not None:
            write_image(pictures["overlays"], draw_overlay(picture.grey, picture.labels))
    return masks.masks().to_strings() or [""]


class _Picture:
    """The slide and its labels, reduced, as far as its strips have come."""

    def __init__(self, read: ReadRegion, plan: SlidePlan) -> None:
        self.read = read
        self.plan = plan
        zoom = min(1.0, _EDGE / max(plan.shape))
        height, width = (max(1, round(edge * zoom)) for edge in plan.shape)
        self.grey = np.zeros((height, width), np.float32)
        self.labels = np.zeros((height, width), np.int32)
        # A pixel of the picture has the label at its middle.
        self.rows, self.columns = (
            (2 * np.arange(new) + 1) * old // (2 * new)
            for new, old in zip((height, width), plan.shape, strict=True)
        )
        self.top = 0

    def add(self, strip: Ints) -> None:
        """Take the slide's next rows."""
        bottom = self.top + len(strip)
        first, last = np.searchsorted(self.rows, (self.top, bottom)).tolist()
        if first < last:
            region = slice(first, last), slice(0, self.grey.shape[1])
            self.grey[region] = self.plan.reduced(self.read, self.grey.shape, region)
            self.labels[first:last] = strip[self.rows[first:last, None] - self.top, self.columns]
        self.top = bottom


def _watched(strips: Iterator[Ints], watching: list[Callable[[Ints], Any]]) -> Iterator[Ints]:
    for strip in strips:
        for watcher in watching:
            watcher(strip)
        yield strip


def _one_at_a_time(read: ReadRegion) -> ReadRegion:
    """The networks' thread and the picture's take turns."""
    lock = Lock()

    def locked(rows: slice, columns: slice) -> NDArray[Any]:
        with lock:
            return read(rows, columns)

    return locked
