"""COCO's JSON of instance annotations, and of results, read; masks are decoded when asked for.

A file of any size is scanned once, item by item, to locate the annotations of each image: 24 bytes
a cell. Real files break COCO's rules here and there. What cannot be used is passed over and said,
by its id; what would be ambiguous is refused by name:

- an annotation without image_id, image or usable polygons or run lengths is passed over;
- two entries with one file name are one image: the one with the most cells is taken, and from the
  others the cells that it lacks (at most half of their pixels lie in cells taken already);
- two entries with one id, or file names that differ by folder or suffix only, are refused;
- `iscrowd` regions are no cells: see `CocoImage.crowd`.
"""

from __future__ import annotations

import math
import os
from array import array
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.formats.coco_masks import (
    CocoMasks,
    CocoSpans,
    annotation_fault,
    as_key,
    read_items,
    reading,
    stamp_of,
)
from flowseg.io.binary import MAX_PIXELS
from flowseg.io.json_stream import LIST, Item, scan_items
from flowseg.io.notes import Note, Notify, log_note
from flowseg.io.paths import PathLike, check_name

Shape = tuple[int, int]

_ANEW = "export or download it again"


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """One annotated image of a COCO file."""

    file_name: str
    """As in the file, with slashes on every system."""
    shape: Shape
    """Height and width in pixels."""
    category: str
    """That of all its annotations; blank where they are of several, or of none."""
    ids: tuple[str, ...]
    """Of its entries in the file; more than one where it is listed several times."""
    cells: CocoMasks
    crowd: CocoMasks
    """Regions of many cells that nobody drew one by one (`iscrowd`): neither cells to find nor
    background."""
    file: Path
    """The COCO file, for messages."""

    @property
    def image_id(self) -> str:
        """The file's name without folder and suffix."""
        return Path(self.file_name).stem

    def masks(self) -> Masks:
        """One mask for each cell, in the order of the file."""
        return self.cells.masks(self.shape)


def read_coco(path: PathLike, note: Notify = log_note) -> list[CocoImage]:
    """The images of a COCO file with their annotations.

    Parameters
    ----------
    path : path
        `annotations` may be a list or, as in the competition's copy of LIVECell, a dict by id;
        masks are polygons, run lengths or packed run lengths. Names may be paths of any system.
    note : callable
        Takes what is passed over or united.

    Raises
    ------
    FlowsegError
        If the file cannot be read, is no COCO file, lists no image, has annotations none of which
        can be used, or has two entries with one id or with file names that give one image id.
    """
    path = Path(path)
    index = _scan(path, ("images", "annotations"))
    if not index.images:
        raise FlowsegError("lists no image", file=path)
    index.pass_over_unlisted()
    index.tell(note)
    found: dict[str, CocoImage] = {}
    again = []
    for key in index.images:
        image = index.image(key)
        other = found.get(image.image_id)
        if other is not None:
            again.append(image.image_id)
            image = _united(other, image)
        found[image.image_id] = image
    if again:
        text = f"entries of {path.name} list an image again; what only one of them holds is added"
        note(Note(text, tuple(again)))
    return list(found.values())


def read_coco_results(path: PathLike, note: Notify = log_note) -> dict[str, CocoMasks] | None:
    """The masks of a COCO results file, ``[{image_id, segmentation, score}, ...]``.

    Returns
    -------
    dict of CocoMasks or None
        By `image_id`, in the order of the file; None for a file that is no list.

    Raises
    ------
    FlowsegError
        If it cannot be read, is no JSON, or has entries none of which can be used.
    """
    path = Path(path)
    with reading(path), path.open("rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
            return None
    index = _scan(path, (LIST,))
    index.tell(note)
    return {key: index.masks(index.rows_of(key)) for key in index.owner_of}


def read_coco_images(path: PathLike) -> list[CocoImage]:
    """The images of a COCO file, whether of annotations or of results.

    Results do not list their images: an image has the name by which they call it, and the size of
    their run lengths. Raises FlowsegError as :func:`read_coco`, and for results that are polygons.
    """
    path = Path(path)
    results = read_coco_results(path)
    if results is None:
        return read_coco(path)
    return [
        CocoImage(
            file_name=key.replace("\\", "/"),
            shape=_shape_of(cells, key),
            category="",
            ids=(key,),
            cells=cells,
            crowd=CocoMasks(()),
            file=path,
        )
        for key, cells in results.items()
    ]


def _shape_of(cells: CocoMasks, key: str) -> Shape:
    """Height and width of an image of a results file, as its first run lengths say."""
    spans = cells.entries[0]
    first = next(iter(read_items(spans._replace(spans=spans.spans[:1]))))["segmentation"]
    size = first.get("size") if isinstance(first, dict) else None
    height, width = map(_whole, size) if isinstance(size, list) and len(size) == 2 else (0, 0)
    if not 0 < height * width <= MAX_PIXELS:
        raise FlowsegError(
            f"does not say how large the image {key!r} is",
            file=spans.path,
            remedy="name a COCO file that lists its images, or results with run lengths",
        )
    return height, width


# --- the scan ---------------------------------------------------------------------------------


class _Index:
    """Where the annotations of each image are in a file."""

    def __init__(self, path: Path, stamp: tuple[int, int]) -> None:
        self.path, self.stamp = path, stamp
        self.images: dict[str, tuple[str, Shape]] = {}
        self.owner_of: dict[str, int] = {}  # a number for each image_id of an annotation
        self._category_of: dict[str, int] = {}  # and for each category_id
        self._names: dict[str, str] = {}
        self._faults: list[str] = []
        self._owners, self._categories, self._crowd = array("i"), array("i"), array("b")
        self._starts, self._ends = array("q"), array("q")

    def add(self, item: Item) -> None:
        """Take one item of the file."""
        if item.member == "images":
            self._add_image(item)
        elif item.member == "categories":
            if isinstance(item.value, dict):
                name = _as_utf8(str(item.value.get("name", "")))
                self._names[as_key(item.value.get("id"))] = name
        elif fault := annotation_fault(item.value):
            self._pass_over(item.value, item.start, fault)
        else:
            entry = item.value
            owner, category = as_key(entry["image_id"]), as_key(entry.get("category_id"))
            self._owners.append(self.owner_of.setdefault(owner, len(self.owner_of)))
            self._categories.append(self._category_of.setdefault(category, len(self._category_of)))
            self._crowd.append(bool(entry.get("iscrowd")))
            self._starts.append(item.start)
            self._ends.append(item.end)

    def _add_image(self, item: Item) -> None:
        entry = item.value
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not as_key(entry.get("id")):
            raise ValueError(f"has an image without id or file_name (byte {item.start})")
        name = _as_utf8(name).replace("\\", "/")
        check_name(PureWindowsPath(name).name)
        height, width = _whole(entry.get("height")), _whole(entry.get("width"))
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError(f"the image {name!r} has no whole height and width, or too large ones")
        other, shape = self.images.setdefault(as_key(entry["id"]), (name, (height, width)))
        if other != name or shape != (height, width):
            raise ValueError(
                f"gives the images {other!r} and {name!r} one id {entry['id']!r}: "
                "it cannot be known whose cells are whose"
            )

    def _pass_over(self, entry: Any, start: int, fault: str) -> None:
        named = entry.get("id") if isinstance(entry, dict) else None
        name = f"byte {start}" if named is None else f"id {str(named)[:40]}"
        self._faults.append(f"{name}: {fault}")

    def pass_over_unlisted(self) -> None:
        """Pass over annotations of images that are not listed."""
        for key in [key for key in self.owner_of if key not in self.images]:
            entry = self.masks(self.rows_of(key)).entries[0]
            for cell, start in zip(read_items(entry), entry.spans[:, 0].tolist(), strict=True):
                self._pass_over(cell, start, f"image {str(key)[:40]} is not listed")
            del self.owner_of[key]

    def tell(self, note: Notify) -> None:
        """Say what is passed over; refuse the file where nothing is left."""
        if self._faults and not self.owner_of:
            raise FlowsegError(
                f"none of its annotations can be used ({self._faults[0]})",
                file=self.path,
                remedy=_ANEW,
            )
        if self._faults:
            note(Note(f"annotations of {self.path.name} are passed over", tuple(self._faults)))

    def image(self, key: str) -> CocoImage:
        """The image of one entry, with its annotations."""
        name, shape = self.images[key]
        rows = self.rows_of(key)
        numbers = np.unique(np.asarray(self._categories)[rows])
        category = list(self._category_of)[numbers[0]] if len(numbers) == 1 else ""
        crowd = np.asarray(self._crowd)[rows] != 0
        return CocoImage(
            file_name=name,
            shape=shape,
            category=self._names.get(category, ""),
            ids=(key,),
            cells=self.masks(rows[~crowd] if crowd.any() else rows),
            crowd=self.masks(rows[crowd]),
            file=self.path,
        )

    def rows_of(self, key: str) -> NDArray[np.int64]:
        """Which annotations are the image's, in the order of the file."""
        return self._rows.get(self.owner_of.get(key, -1), np.zeros(0, np.int64))

    def masks(self, rows: NDArray[np.int64]) -> CocoMasks:
        """The masks of some annotations."""
        if not len(rows):
            return CocoMasks(())
        spans = np.stack([np.asarray(self._starts)[rows], np.asarray(self._ends)[rows]], axis=1)
        return CocoMasks((CocoSpans(self.path, self.stamp, spans),))

    @cached_property
    def _rows(self) -> dict[int, NDArray[np.int64]]:
        owners = np.asarray(self._owners)
        order = np.argsort(owners, kind="stable")
        numbers, first = np.unique(owners[order], return_index=True)
        return dict(zip(numbers.tolist(), np.split(order, first[1:]), strict=False))


def _scan(path: Path, members: tuple[str, ...]) -> _Index:
    with reading(path), path.open("rb") as file:
        bar = tqdm(
            total=os.fstat(file.fileno()).st_size,
            desc=path.name,
            unit="B",
            unit_scale=True,
            delay=2,
            leave=False,
        )
        with bar:
            index = _Index(path, stamp_of(file.fileno()))
            for item in scan_items(file, (*members, "categories"), bar.update, members):
                index.add(item)
    return index


def _united(first: CocoImage, second: CocoImage) -> CocoImage:
    if (first.file_name, first.shape) != (second.file_name, second.shape):
        names = [f"{i.file_name!r} ({i.shape[1]} x {i.shape[0]})" for i in (first, second)]
        raise FlowsegError(
            f"lists {' and '.join(names)}, which would be one image {first.image_id!r}",
            file=first.file,
            remedy="rename one of them, or split the file",
        )
    return replace(
        first,
        category=first.category if first.category == second.category else "",
        ids=first.ids + second.ids,
        cells=first.cells + second.cells,
        crowd=first.crowd + second.crowd,
    )


def _whole(value: Any) -> int:
    """A whole number, also one that is written as 60.0; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(value) if math.isfinite(value) and value == int(value) > 0 else 0


def _as_utf8(name: str) -> str:
    """A text in UTF-8: the scanner decodes bytes as Latin-1."""
    with suppress(UnicodeError):  # raised by an escape such as \u03b1, which is decoded already
        return name.encode("latin-1").decode()
    return name
