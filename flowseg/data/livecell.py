"""LIVECell: polygons in COCO JSON and TIFF images, in the mirror's layout and in the public one."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from flowseg.arrays.polygons import polygons_to_masks
from flowseg.arrays.rle import Masks
from flowseg.data.json_stream import Item, scan_items
from flowseg.data.record import Record, select_names
from flowseg.errors import FlowsegError
from flowseg.io.binary import MAX_PIXELS
from flowseg.io.paths import PathLike, check_name, sha256_of

FOLDER = "LIVECell_dataset_2021"
"""Name of the data set's folder, in the public release and in the competition's mirror."""

SPLITS = ("train", "val", "test")

CELL_TYPES = ("a172", "bt474", "bv2", "huh7", "mcf7", "shsy5y", "skbr3", "skov3")


def read_livecell(
    folder: PathLike,
    splits: Sequence[str] = ("train", "val"),
    cell_types: Iterable[str] | None = None,
) -> list[Record]:
    """Read LIVECell: images are not opened, and polygons are only located in their file.

    Parameters
    ----------
    folder : path
        `LIVECell_dataset_2021` or the folder that holds it.
    splits : sequence of str
        Which of `SPLITS`. The annotations of a split are `annotations/LIVECell/*SPLIT.json`, or
        where that is not there `annotations/LIVECell_single_cells/TYPE/*SPLIT.json`.
    cell_types : iterable of str, optional
        Which of `CELL_TYPES`; all by default.

    Returns
    -------
    list of Record
        Sorted by image id, the file's name without suffix. Cell type and well (the group) come
        from the name: `Huh7_Phase_A12_1_02d12h00m_3.tif` is `huh7` in well A12.

    Raises
    ------
    FlowsegError
        If there are no annotations, or they are cut off, not in COCO format, or name an image
        that is missing.

    Notes
    -----
    The JSON is scanned once, item by item, to locate each image's annotations in the file;
    `Record.masks` reads them there. The memory needed is 24 bytes a cell, whatever the size of
    the file.
    """
    root = _root(Path(folder))
    wanted = select_names(splits, SPLITS, "split")
    types = select_names(cell_types, CELL_TYPES, "cell type")
    images = _image_files(root / "images")
    records: dict[str, Record] = {}
    for split in (split for split in SPLITS if split in wanted):
        for path in _annotation_files(root, split):
            for record in _read_coco(path, images, types):
                other = records.setdefault(record.image_id, record)
                if other is not record:
                    raise FlowsegError(
                        f"lists {record.image_id!r}, which another file or row lists too",
                        file=path,
                        remedy="leave one of the two out",
                    )
    if not records:
        raise FlowsegError(f"holds no image of {', '.join(sorted(types))}", file=root)
    return [records[image_id] for image_id in sorted(records)]


@dataclass(frozen=True, eq=False)
class Polygons:
    """Byte ranges of the polygons of one image in a COCO file; satisfies `Annotation`.

    Parameters
    ----------
    path : Path
        The COCO file.
    stamp : (int, int)
        Its size and modification time when it was scanned.
    spans : (N, 2) int64
        First byte of each annotation and the byte after its last.
    """

    path: Path
    stamp: tuple[int, int]
    spans: npt.NDArray[np.int64]

    def masks(self, shape: tuple[int, int]) -> Masks:
        """Read and draw the polygons; cells without the centre of a pixel are left out."""
        try:
            with self.path.open("rb") as file:
                if _stamp(file.fileno()) != self.stamp:
                    raise FlowsegError(
                        "has changed since it was first read", file=self.path, remedy="start again"
                    )
                cells = []
                for start, end in self.spans.tolist():
                    file.seek(start)
                    # as the scanner read it: bytes beyond ASCII are text beside the numbers
                    cell = json.loads(file.read(end - start).decode("latin-1"))
                    cells.append(cell["segmentation"])
        except OSError as error:
            raise FlowsegError(f"cannot be read: {error}", file=self.path) from error
        owners = np.repeat(np.arange(len(cells)), [len(cell) for cell in cells])
        try:
            drawn = polygons_to_masks(
                [polygon for cell in cells for polygon in cell], owners, len(cells), shape
            )
        except FlowsegError as error:
            raise error.at(self.path) from error
        return drawn.select(drawn.areas() > 0)

    def digest(self) -> str:
        """The SHA-256 of the COCO file, which all its images share."""
        return _digest(self.path, self.stamp)


@cache
def _digest(path: Path, stamp: tuple[int, int]) -> str:  # noqa: ARG001  (another stamp, another file)
    return sha256_of(path)


def _root(folder: Path) -> Path:
    for root in (folder, folder / FOLDER):
        if (root / "annotations").is_dir():
            return root
    raise FlowsegError(
        f"holds no {FOLDER} with annotations" if folder.is_dir() else "is no folder",
        file=folder,
        remedy="name the folder of the unzipped data (--data)",
    )


def _image_files(folder: Path) -> dict[str, Path]:
    """All files below a folder, by name."""
    files: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            files.setdefault(name, Path(parent, name))
    return files


def _annotation_files(root: Path, split: str) -> list[Path]:
    folder = root / "annotations"
    combined = sorted((folder / "LIVECell").glob(f"*{split}.json"))
    single = sorted((folder / "LIVECell_single_cells").glob(f"*/*{split}.json"))
    if not combined and not single:
        raise FlowsegError(
            f"holds no annotations of the split {split!r}: "
            f"neither LIVECell/*{split}.json nor LIVECell_single_cells/*/*{split}.json",
            file=folder,
        )
    return combined or single


def _read_coco(path: Path, images: dict[str, Path], types: frozenset[str]) -> list[Record]:
    """The records of one COCO file."""
    listed: dict[int, tuple[str, tuple[int, int]]] = {}
    owners, starts, ends = array("q"), array("q"), array("q")
    try:
        with (
            path.open("rb") as file,
            tqdm(
                total=os.fstat(file.fileno()).st_size,
                desc=path.name,
                unit="B",
                unit_scale=True,
                delay=2,
                leave=False,
            ) as bar,
        ):
            stamp = _stamp(file.fileno())
            for item in scan_items(file, ("images", "annotations"), bar.update):
                if item.member == "images":
                    image_id, name, shape = _image_entry(item)
                    listed[image_id] = name, shape
                else:
                    owners.append(_owner(item))
                    starts.append(item.start)
                    ends.append(item.end)
    except OSError as error:
        raise FlowsegError(f"cannot be read: {error}", file=path) from error
    except (ValueError, OverflowError) as error:
        raise FlowsegError(str(error), file=path, remedy="download it again") from error
    spans = _spans_by_image(owners, starts, ends)
    stray = sorted(spans.keys() - listed.keys())
    if stray:
        raise FlowsegError(f"annotates image {stray[0]}, which it does not list", file=path)
    no_spans = np.zeros((0, 2), np.int64)
    records = []
    for image_id, (name, shape) in listed.items():
        cell_type, group = _cell_type_and_group(name)
        if cell_type not in types:
            continue
        if name not in images:
            raise FlowsegError(
                f"lists {name!r}, which is nowhere under images/",
                file=path,
                remedy="unzip the images beside the annotations",
            )
        polygons = Polygons(path, stamp, spans.get(image_id, no_spans))
        records.append(
            Record(
                image_id=Path(name).stem,
                image_path=images[name],
                shape=shape,
                cell_type=cell_type,
                group=group,
                annotation=polygons,
            )
        )
    return records


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def _image_entry(item: Item) -> tuple[int, str, tuple[int, int]]:
    entry = item.value
    if isinstance(entry, dict):
        name = entry.get("file_name")
        numbers: list[Any] = [entry.get(key) for key in ("id", "height", "width")]
        if isinstance(name, str) and all(type(number) is int for number in numbers):
            image_id, height, width = numbers
            if height > 0 and 0 < height * width <= MAX_PIXELS:
                return image_id, _as_utf8(name), (height, width)
    raise ValueError(f"has an image without id, file_name, height or width (byte {item.start})")


def _as_utf8(name: str) -> str:
    """A file name in UTF-8: the scanner decodes bytes as Latin-1."""
    with suppress(UnicodeError):  # raised by an escape such as \u03b1, which is decoded already
        name = name.encode("latin-1").decode()
    try:
        return check_name(name)
    except FlowsegError as error:
        raise ValueError(error.problem) from error


def _owner(item: Item) -> int:
    """The image of an annotation; its numbers are checked when they are drawn."""
    entry: Any = item.value
    if isinstance(entry, dict) and type(entry.get("image_id")) is int:
        cell = entry.get("segmentation")
        if isinstance(cell, list) and cell and all(isinstance(polygon, list) for polygon in cell):
            return int(entry["image_id"])
    raise ValueError(f"has an annotation without image_id or polygons (byte {item.start})")


def _spans_by_image(
    owners: array[int], starts: array[int], ends: array[int]
) -> dict[int, npt.NDArray[np.int64]]:
    owner = np.asarray(owners, np.int64)
    order = np.argsort(owner, kind="stable")
    spans = np.stack([np.asarray(starts, np.int64), np.asarray(ends, np.int64)], axis=1)[order]
    ids, first = np.unique(owner[order], return_index=True)
    return dict(zip(ids.tolist(), np.split(spans, first[1:]), strict=False))


def _cell_type_and_group(name: str) -> tuple[str, str]:
    """`Huh7_Phase_A12_1_02d12h00m_3.tif` -> `huh7`, `huh7_A12`; other names are groups of one."""
    stem = Path(name).stem
    parts = stem.split("_")
    cell_type = parts[0].lower()
    return cell_type, f"{cell_type}_{parts[2]}" if len(parts) >= 3 else stem
