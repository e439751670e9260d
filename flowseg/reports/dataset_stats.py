"""Dataset statistics: sizes, overlaps, intensities and flagged annotations of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.labels import equivalent_diameter
from flowseg.arrays.rle import Masks
from flowseg.data.mask_repair import SMALL, STRAIGHT, Defects, find_defects
from flowseg.data.record import Record


@dataclass(frozen=True, kw_only=True)
class QualityFlag:
    """A reason to doubt an annotation.

    `severity` tells from defects and areas of N masks how bad each is, in `unit`, 0 where it is not
    flagged: (N,) int64.
    """

    name: str
    title: str
    note: str
    unit: str
    severity: Callable[[Defects, NDArray[np.int64]], NDArray[np.int64]]


QUALITY_FLAGS = (
    QualityFlag(
        name="straight",
        title="Long straight edges",
        note=f"A horizontal edge of {STRAIGHT} pixels or more inside the image: the polygon was "
        "filled wrongly when the mask was drawn. Common in astro.",
        unit="px edge",
        severity=lambda defects, _: np.where(defects.straight >= STRAIGHT, defects.straight, 0),
    ),
    QualityFlag(
        name="holes",
        title="Holes",
        note="The mask encloses pixels that it does not hold.",
        unit="px of holes",
        severity=lambda defects, _: defects.holes,
    ),
    QualityFlag(
        name="components",
        title="Several components",
        note="One mask, but not one connected cell.",
        unit="components",
        severity=lambda defects, _: np.where(defects.components > 1, defects.components, 0),
    ),
    QualityFlag(
        name="duplicate",
        title="Duplicates",
        note="The same mask is annotated twice.",
        unit="px, twice",
        severity=lambda defects, areas: np.where(defects.duplicate_of >= 0, areas, 0),
    ),
    QualityFlag(
        name="tiny",
        title="Tiny",
        note=f"Fewer than {SMALL} pixels.",
        unit=f"px short of {SMALL}",
        severity=lambda defects, areas: np.where(defects.small, SMALL - areas, 0),
    ),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageStats:
    """Statistics of one image and its N masks."""

    record: Record
    areas: NDArray[np.int64]
    """(N,): Pixels of each mask."""
    at_border: NDArray[np.bool_]
    """(N,): Masks that touch the image's border."""
    covered: float
    overlap: float
    """Share of the image in cells, and share of those pixels that several masks claim."""
    mean: float
    std: float
    """Mean and standard deviation of the intensities, as stored."""
    severity: dict[str, NDArray[np.int64]]
    """By the name of each of `QUALITY_FLAGS`; 0 where a mask is not flagged."""

    @property
    def diameters(self) -> NDArray[np.float64]:
        """Equivalent diameters of the masks in pixels, empty masks left out."""
        return equivalent_diameter(self.areas[self.areas > 0])

    @property
    def flagged(self) -> int:
        """How many masks have a flag or more."""
        return int(np.any([severity > 0 for severity in self.severity.values()], axis=0).sum())


def dataset_stats(records: Sequence[Record]) -> list[ImageStats]:
    """Statistics of every image, each read once."""
    bar = tqdm(records, desc="reading images", unit="image", delay=1)
    return [_image_stats(record) for record in bar]


def _image_stats(record: Record) -> ImageStats:
    masks = record.masks()
    image = record.image()
    areas = masks.areas()
    defects = find_defects(masks)
    depth = _masks_per_pixel(masks)
    covered = int((depth > 0).sum())
    return ImageStats(
        record=record,
        areas=areas,
        at_border=_at_border(masks),
        covered=covered / depth.size,
        overlap=int((depth > 1).sum()) / max(1, covered),
        mean=float(image.mean()),
        std=float(image.std()),
        severity={flag.name: flag.severity(defects, areas) for flag in QUALITY_FLAGS},
    )


def _masks_per_pixel(masks: Masks) -> NDArray[np.int64]:
    """How many masks hold each pixel: (H * W,) int64."""
    size = masks.shape[0] * masks.shape[1] + 1
    starts = np.bincount(masks.starts, minlength=size)
    ends = np.bincount(masks.starts + masks.lengths, minlength=size)
    return np.cumsum(starts - ends)[:-1]


def _at_border(masks: Masks) -> NDArray[np.bool_]:
    height, width = masks.shape
    last = masks.starts + masks.lengths - 1
    touches = (masks.starts < width) | (last >= (height - 1) * width)
    # a run that begins in the first column, ends in the last one, or goes on in the next row
    touches |= (masks.starts % width == 0) | (last % width == width - 1)
    touches |= masks.starts // width != last // width
    owner = np.repeat(np.arange(len(masks)), np.diff(masks.offsets))
    at_border: NDArray[np.bool_] = np.bincount(owner[touches], minlength=len(masks)) > 0
    return at_border
