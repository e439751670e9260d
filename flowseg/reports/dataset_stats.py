"""What a data set holds, measured image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.labels import equivalent_diameter
from flowseg.arrays.rle import Masks
from flowseg.data.mask_repair import SMALL, STRAIGHT, Defects, find_defects
from flowseg.data.record import Record

__all__ = ["QUALITY_FLAGS", "ImageStats", "QualityFlag", "dataset_stats"]


@dataclass(frozen=True)
class QualityFlag:
    """A kind of annotation that is worth a look.

    Attributes
    ----------
    name, title, note : str
        For code, for a heading, and what it means.
    unit : str
        Of how bad it is.
    """

    name: str
    title: str
    note: str
    unit: str

    def severity(self, defects: Defects, areas: NDArray[np.int64]) -> NDArray[np.int64]:
        """How bad each mask is, 0 where it is not suspicious: (N,) int64."""
        if self.name == "tiny":
            worst: NDArray[np.int64] = np.where(defects.small, SMALL - areas, 0)
            return worst
        if self.name == "straight":
            return np.where(defects.straight >= STRAIGHT, defects.straight, 0)
        if self.name == "pieces":
            return np.where(defects.pieces > 1, defects.pieces, 0)
        if self.name == "duplicate":
            return np.where(defects.duplicate_of >= 0, areas, 0)
        return defects.holes


QUALITY_FLAGS = (
    QualityFlag(
        "straight",
        "Long straight edges",
        f"A horizontal edge of {STRAIGHT} pixels or more inside the image: the polygon was filled "
        "wrongly when the mask was drawn. Common in astro.",
        "px edge",
    ),
    QualityFlag("holes", "Holes", "The mask encloses pixels that it does not hold.", "px of holes"),
    QualityFlag("pieces", "Several pieces", "One mask, but not one connected cell.", "pieces"),
    QualityFlag("duplicate", "Duplicates", "The same mask is annotated twice.", "px, twice"),
    QualityFlag("tiny", "Tiny", f"Fewer than {SMALL} pixels.", f"px short of {SMALL}"),
)


@dataclass(frozen=True, eq=False)
class ImageStats:
    """What one image and its N masks are like.

    Attributes
    ----------
    record : Record
    areas : (N,) int64
        Pixels of each mask.
    at_border : (N,) bool
        Masks that touch the image's border.
    covered, overlap : float
        Share of the image in cells, and share of those pixels that several masks claim.
    mean, spread : float
        Of the intensities, as stored; `spread` is the standard deviation.
    severity : dict of (N,) int64
        By the name of each of `QUALITY_FLAGS`.
    """

    record: Record
    areas: NDArray[np.int64]
    at_border: NDArray[np.bool_]
    covered: float
    overlap: float
    mean: float
    spread: float
    severity: dict[str, NDArray[np.int64]]

    @property
    def diameters(self) -> NDArray[np.float64]:
        """Of the disks as large as the masks, in pixels; empty masks left out."""
        return equivalent_diameter(self.areas[self.areas > 0])

    @property
    def suspicious(self) -> int:
        """How many masks are suspicious in one way or more."""
        return int(np.any([worst > 0 for worst in self.severity.values()], axis=0).sum())


def dataset_stats(records: Sequence[Record]) -> list[ImageStats]:
    """Look at every image and every mask once.

    Raises
    ------
    FlowsegError
        If an image or its annotation cannot be read.
    """
    bar = tqdm(records, desc="looking at images", unit="image", delay=1)
    return [_facts(record) for record in bar]


def _facts(record: Record) -> ImageStats:
    masks = record.masks()
    image = record.image()
    areas = masks.areas()
    defects = find_defects(masks)
    claims = _claims(masks)
    claimed = int((claims > 0).sum())
    return ImageStats(
        record,
        areas,
        _at_border(masks),
        covered=claimed / claims.size,
        overlap=int((claims > 1).sum()) / max(1, claimed),
        mean=float(image.mean()),
        spread=float(image.std()),
        severity={kind.name: kind.severity(defects, areas) for kind in QUALITY_FLAGS},
    )


def _claims(masks: Masks) -> NDArray[np.int64]:
    """How many masks claim each pixel, flat."""
    size = masks.shape[0] * masks.shape[1] + 1
    begun = np.bincount(masks.starts, minlength=size)
    ended = np.bincount(masks.starts + masks.lengths, minlength=size)
    return np.cumsum(begun - ended)[:-1]


def _at_border(masks: Masks) -> NDArray[np.bool_]:
    height, width = masks.shape
    last = masks.starts + masks.lengths - 1
    touches = (masks.starts < width) | (last >= (height - 1) * width)
    # a run that begins in the first column, ends in the last one, or goes on in the next row
    touches |= (masks.starts % width == 0) | (last % width == width - 1)
    touches |= masks.starts // width != last // width
    owner = np.repeat(np.arange(len(masks)), np.diff(masks.offsets))
    found: NDArray[np.bool_] = np.bincount(owner[touches], minlength=len(masks)) > 0
    return found
