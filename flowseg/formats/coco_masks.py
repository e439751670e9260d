"""The masks of a COCO file's annotations: located in the file, read and drawn on demand."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.polygons import polygons_to_masks
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.io.notes import Note, log_note
from flowseg.io.paths import sha256_of

Shape = tuple[int, int]

_ANEW = "export or download it again"
_SHORTEST = 6  # numbers of a polygon of three corners


class CocoSpans(NamedTuple):
    """Annotations of one image in one file."""

    path: Path
    stamp: tuple[int, int]
    """Size and modification time of the file when it was scanned."""
    spans: NDArray[np.int64]
    """(N, 2): first byte of each annotation and the byte after its last."""


@dataclass(frozen=True, eq=False)
class CocoMasks:
    """The masks of one image, read from its files on demand; small, and can be pickled."""

    entries: tuple[CocoSpans, ...]
    """One for each time that the image is listed."""

    def masks(self, shape: Shape) -> Masks:
        """Read and draw; cells without a pixel are left out, of several entries those said twice.

        Raises
        ------
        FlowsegError
            If a file has changed since it was scanned, or cannot be read.
        """
        parts = sorted((_draw(entry, shape) for entry in self.entries), key=lambda p: -len(p))
        taken = Masks.concatenate(parts[:1], shape)
        for part in parts[1:]:
            taken = Masks.concatenate([taken, part.select(_not_among(part, taken))], shape)
        return taken

    def digest(self) -> str:
        """A hash of the files, which all their images share."""
        digests = [_digest(entry.path, entry.stamp) for entry in self.entries]
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256(repr(digests).encode()).hexdigest()

    def __add__(self, other: CocoMasks) -> CocoMasks:
        """Those of both, as one image that is listed in several files."""
        return CocoMasks(self.entries + other.entries)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with a file becomes an error that names it."""
    try:
        yield
    except FlowsegError as error:
        if error.file:
            raise
        raise error.at(path) from error
    except OSError as error:
        raise FlowsegError(f"cannot be read: {error.strerror}", file=path) from error
    except (ValueError, OverflowError) as error:
        raise FlowsegError(str(error), file=path, remedy=_ANEW) from error


def stamp_of(descriptor: int) -> tuple[int, int]:
    """Size and modification time of an open file."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


@cache
def _digest(path: Path, stamp: tuple[int, int]) -> str:  # noqa: ARG001  (another stamp, another file)
    return sha256_of(path)


def as_key(value: Any) -> str:
    """An id of an image or category as text: 7, 7.0 and "7" are one; blank for what is no id."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (int, str)) else ""


def annotation_fault(entry: Any) -> str:
    """Why an annotation cannot be used, as far as a glance at it shows; blank if it can."""
    if not isinstance(entry, dict):
        return "no object"
    if not as_key(entry.get("image_id")):
        return "no image_id"
    cell = entry.get("segmentation")
    if isinstance(cell, dict):
        return "" if "counts" in cell else "run lengths without counts"
    if not isinstance(cell, list):
        return "no segmentation"
    return "" if _rings(cell) else "no polygon of three corners"


def _rings(cell: list[Any]) -> list[Any]:
    """The polygons of a cell; one alone may stand without its list, degenerate ones are none."""
    rings = [cell] if cell and not isinstance(cell[0], list) else cell
    return [ring for ring in rings if isinstance(ring, list) and len(ring) >= _SHORTEST]


def read_items(entry: CocoSpans) -> list[dict[str, Any]]:
    """The annotations, read again from the file."""
    with reading(entry.path), entry.path.open("rb") as file:
        if stamp_of(file.fileno()) != entry.stamp:
            raise FlowsegError("has changed since it was first read", remedy="start again")
        items = []
        for start, end in entry.spans.tolist():
            file.seek(start)
            # as the scanner read it: bytes beyond ASCII are text beside the numbers
            items.append(json.loads(file.read(end - start).decode("latin-1")))
    return items


def _draw(entry: CocoSpans, shape: Shape) -> Masks:
    """The masks of annotations; those that cannot be drawn are passed over and said."""
    cells = read_items(entry)
    shapes = [cell["segmentation"] for cell in cells]
    try:
        masks = _draw_all(shapes, shape)
    except FlowsegError:
        drawn, faults = [], []
        for cell, segmentation in zip(cells, shapes, strict=True):
            try:
                drawn.append(_draw_all([segmentation], shape))
            except FlowsegError as error:
                faults.append(f"id {str(cell.get('id'))[:40]}: {error.problem}")
        if not drawn:
            raise FlowsegError(
                f"no annotation of an image can be drawn ({faults[0]})",
                file=entry.path,
                remedy=_ANEW,
            ) from None
        log_note(Note(f"annotations of {entry.path.name} are passed over", tuple(faults)))
        masks = Masks.concatenate(drawn, shape)
    return masks.select(masks.areas() > 0)


def _draw_all(segmentations: list[Any], shape: Shape) -> Masks:
    polygons = [_rings(cell) if isinstance(cell, list) else [] for cell in segmentations]
    owners = np.repeat(np.arange(len(polygons)), [len(rings) for rings in polygons])
    masks = polygons_to_masks(
        [ring for rings in polygons for ring in rings], owners, len(polygons), shape
    )
    if all(polygons):
        return masks
    parts = [
        masks.select([k]) if polygons[k] else Masks.from_dense([_decode_runs(cell, shape)])
        for k, cell in enumerate(segmentations)
    ]
    return Masks.concatenate(parts, shape)


def _not_among(masks: Masks, taken: Masks) -> NDArray[np.bool_]:
    """Which masks have at least half of their pixels in no mask of `taken`."""
    covered = np.concatenate([[0], np.cumsum(taken.paint().reshape(-1) > 0)])
    of_runs = covered[masks.starts + masks.lengths] - covered[masks.starts]
    total = np.concatenate([[0], np.cumsum(of_runs)])
    return np.asarray(2 * np.diff(total[masks.offsets]) <= masks.areas())


def _decode_runs(runs: Any, shape: Shape) -> NDArray[np.bool_]:
    """The mask of run lengths, as a list or packed in a text: down columns, outside first."""
    height, width = shape
    try:
        if list(runs["size"]) != [height, width]:
            raise FlowsegError(f"holds run lengths of the size {runs['size']}, not {list(shape)}")
        counts = runs["counts"]
        lengths = np.array(_unpack(counts) if isinstance(counts, str) else counts, dtype=np.int64)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FlowsegError(f"holds run lengths that cannot be read: {error}") from error
    # each of them, too: a sum of very large ones would start again from 0
    within = lengths.ndim == 1 and ((lengths >= 0) & (lengths <= height * width)).all()
    if not within or lengths.sum() != height * width:
        raise FlowsegError("holds run lengths that do not add up to the image")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def _unpack(text: str) -> list[int]:
    """Numbers of COCO's packed text: five bits a character, lowest first, the sixth for more.

    From the fourth number on each is the difference from the number two before it.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the packed text is damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
