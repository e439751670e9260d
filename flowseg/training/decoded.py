"""Decoded training images: the last used in memory, all of them on the disk where they are many."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.intensity import Normalization, Span, intensity_span, normalize
from flowseg.arrays.labels import keep_largest_component
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.io.atomic import atomic_path, ensure_writable_folder
from flowseg.training.augment import Labelled
from flowseg.training.provenance import fingerprint

IGNORED = -1
"""Label of pixels that are neither cells nor background."""

_IN_MEMORY = 8  # bytes a pixel: image and labels
_ON_DISK = 4  # for 8 or 16 bits of intensity, and 16 of labels

_log = logging.getLogger(__name__)


class DecodedImages:
    """Normalised images of records and their labels, each decoded once where there is room.

    A process keeps the last used in memory, up to `megabytes`. Where all records need more, they
    are also kept in `folder`, as stored and in small types; processes, folds and later runs with
    the same folder share them. It may be deleted at any time. Without a folder they are decoded
    again. Raises FlowsegError if the disk has no room for them.
    """

    def __init__(
        self,
        records: Iterable[Record],
        megabytes: int,
        normalization: Normalization,
        folder: Path | None = None,
    ) -> None:
        self._limit = megabytes * 2**20
        self._normalization = normalization
        self._size = 0
        self._items: OrderedDict[str, Labelled] = OrderedDict()
        records = list(records)
        pixels = sum(math.prod(record.shape) for record in records)
        self._folder = folder if pixels * _IN_MEMORY > self._limit else None
        if self._folder is not None:
            _make_room(ensure_writable_folder(self._folder), pixels * _ON_DISK)

    def get(self, record: Record) -> Labelled:
        """The normalised image, (H, W) float32, and its labels, (H, W) int32.

        Pixels of crowd regions are `IGNORED`.
        """
        if record.image_id in self._items:
            self._items.move_to_end(record.image_id)
            return self._items[record.image_id]
        image, labels, span = self._decoded(record)
        item = (
            normalize(image.astype(np.float32, copy=False), span, self._normalization),
            labels.astype(np.int32, copy=False),
        )
        self._items[record.image_id] = item
        self._size += item[0].nbytes + item[1].nbytes
        while self._size > self._limit and len(self._items) > 1:
            _, old = self._items.popitem(last=False)
            self._size -= old[0].nbytes + old[1].nbytes
        return item

    def _decoded(self, record: Record) -> tuple[NDArray[np.generic], NDArray[np.generic], Span]:
        """Image, labels and span of intensities, as they are kept in the folder."""
        if self._folder is None:
            return self._decode(record)
        path = self._folder / f"{self._key(record)}.npz"
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return file["image"], file["labels"], Span(*file["span"].tolist())
        except FileNotFoundError:
            pass
        except (OSError, ValueError, LookupError, TypeError, EOFError, BadZipFile) as error:
            _log.warning("%s cannot be read (%s) and is written anew", path, error)
        image, labels, span = self._decode(record)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, image=_smaller(image), labels=_smaller(labels), span=np.array(span))
        return image, labels, span

    def _decode(self, record: Record) -> tuple[NDArray[np.float32], NDArray[np.int32], Span]:
        image = record.image()
        # A cell may be cut in two by one on top; each component would have a centre of its own.
        labels = keep_largest_component(masks_to_labels(record.masks()))
        crowd = record.crowd_masks()
        if crowd is not None:
            labels[(crowd.paint() > 0) & (labels == 0)] = IGNORED
        return image, labels, intensity_span(image, self._normalization)

    def _key(self, record: Record) -> str:
        """A name for what is kept: other data or another normalization, another name."""
        changed = record.image_path.stat().st_mtime_ns
        how = (self._normalization.percentiles, self._normalization.range)
        text = f"{record.image_path.resolve()} {changed} {fingerprint([record])} {how}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _make_room(folder: Path, needed: int) -> None:
    """Refuse a folder whose disk cannot hold so many bytes beside what is there."""
    kept = sum(path.stat().st_size for path in folder.iterdir())
    free = shutil.disk_usage(folder).free
    if needed - kept > free:
        raise FlowsegError(
            f"the disk has {free / 1e9:.1f} GB left, and the decoded images need "
            f"{(needed - kept) / 1e9:.1f} GB",
            file=folder,
            remedy="free some, choose an --out on another disk, or raise data.cache_mb so that "
            "memory holds them",
        )


def _smaller(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The array in 8 or 16 bits where that loses nothing."""
    for dtype in (np.uint8, np.uint16):
        smaller = array.astype(dtype)
        if np.array_equal(smaller, array):
            return smaller
    return array
