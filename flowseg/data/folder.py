"""Folders of images and label images, in the layouts that microscopists have."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flowseg.arrays.rle import Masks
from flowseg.data.groups import groups_of_names
from flowseg.data.label_files import LabelledImage, check_instances, find_coco
from flowseg.data.record import Record, size_differs
from flowseg.errors import FlowsegError
from flowseg.formats.coco_reader import CocoImage, read_coco
from flowseg.io.image_source import list_images
from flowseg.io.images import image_shape
from flowseg.io.notes import Note, log_note
from flowseg.io.paths import LAYOUTS, SEG_SUFFIX, PathLike, check_name, match_labels
from flowseg.io.tables import read_table

CELL_TYPE = "cell"
"""The cell type of a folder's images where none is named."""

TYPE_TABLE = "cell_types.csv"
"""A table in the folder: `id`, `cell_type` where images are of several types, maybe `group`."""

_log = logging.getLogger(__name__)


def read_folder(folder: PathLike, cell_type: str = CELL_TYPE) -> list[Record]:
    """Read images and label files of any bit depth, matched by `flowseg.io.paths.match_labels`.

    Parameters
    ----------
    folder : path
        Images and label files of any bit depth: see :func:`flowseg.io.paths.match_labels`.
    cell_type : str
        That of all its images, unless the folder holds a table of them, ``cell_types.csv`` with the
        columns `id` and `cell_type`; its column `group` says which images folds keep together.

    Returns
    -------
    list of Record
        Sorted by image id, the file's name without suffix. Without a column `group`, or where it is
        blank, an image is of the group that its name shows: see :mod:`flowseg.data.groups`.
        Images without labels are left out, and named in the log. Of a stack beside a stack of
        labels each page is a record, and all are of one group.

    Raises
    ------
    FlowsegError
        If no image has labels, labels have no image or two candidates, the two differ in size,
        a label image is a mask of where cells are, or an image is not in the table.
    """
    folder = Path(folder)
    images, labels = match_labels(folder)
    remedy = f"name a folder of {LAYOUTS}; or the unzipped competition (--data)"
    if not images:
        raise FlowsegError("holds no image", file=folder, remedy=remedy)
    coco = None if labels else find_coco(folder)
    annotated = {} if coco is None else _annotated(coco, images)
    if not labels and not annotated:
        raise FlowsegError(
            "holds neither a train.csv nor images with labels, nor a COCO file of its images",
            file=folder,
            remedy=remedy,
        )
    if stray := sorted(path for name, path in labels.items() if name not in images):
        raise FlowsegError("holds labels, but there is no image for it", file=stray[0])
    check_instances(_first_page(path) for path in labels.values())
    types = _read_column(folder / TYPE_TABLE, "cell_type")
    names = [*labels, *annotated]
    if bare := tuple(image.name for name, image in images.items() if name not in {*names}):
        _log.info("%s", Note("images without labels are left out", bare))
    groups = groups_of_names(names)
    named = _read_column(folder / TYPE_TABLE, "group") or {}
    groups |= {name: group for name, group in named.items() if group and name in groups}
    _log_groups(groups)
    bar = tqdm(names, desc="reading labels", unit="image", delay=2, leave=False)
    records = [
        Record(
            image_id=check_name(image_id, file=images[name]),
            image_path=images[name],
            cell_type=cell_type if types is None else _type_of(images[name], types),
            group=groups[name],
            **annotation,
        )
        for name in bar
        for image_id, annotation in (
            _annotated_pages(name, images[name], labels[name])
            if name in labels
            else [(name, _coco_annotation(images[name], annotated[name]))]
        )
    ]
    return sorted(records, key=lambda record: record.image_id)


def _read_column(table: Path, column: str) -> dict[str, str] | None:
    """A column of `cell_types.csv` by image id; None where there is none of it."""
    if not table.exists():
        return None
    rows = read_table(table, ("id", "cell_type"))
    return dict(zip(rows["id"], rows[column], strict=True)) if column in rows else None


def _log_groups(groups: Mapping[str, str]) -> None:
    """Say what folds keep together."""
    sizes = {name: size for name, size in Counter(groups.values()).items() if size > 1}
    if sizes:
        shown = ", ".join(list(sizes)[:5]) + (", ..." if len(sizes) > 5 else "")
        _log.info(
            "%d images are of %d movies, pictures or wells, which folds keep together: %s; "
            "a column 'group' in %s says otherwise",
            sum(sizes.values()),
            len(sizes),
            shown,
            TYPE_TABLE,
        )


def _type_of(image: Path, types: Mapping[str, str]) -> str:
    if not types.get(image.stem):
        raise FlowsegError(f"has no cell type in {TYPE_TABLE}", file=image, remedy="add it there")
    return types[image.stem]


def _annotated_pages(name: str, image: Path, labels: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The id, `shape`, `annotation` and `page` of records: of a stack, one for each page."""
    is_stack = not labels.name.endswith(SEG_SUFFIX) and len(list_images(labels)) > 1
    if not is_stack:
        shape = image_shape(image)
        yield name, {"shape": shape, "annotation": _masks(image, shape, LabelledImage(path=labels))}
        return
    pages, label_pages = list_images(image), list_images(labels)
    if len(pages) != len(label_pages):
        raise FlowsegError(
            f"holds {len(pages)} images, and {labels.name} the labels of {len(label_pages)}",
            file=image,
        )
    for page, label_page in zip(pages, label_pages, strict=True):
        masks = _masks(image, page.shape, LabelledImage(path=labels, page=label_page))
        yield f"{name}_{page.index:04d}", {"shape": page.shape, "annotation": masks, "page": page}


def _first_page(labels: Path) -> LabelledImage:
    pages = [] if labels.name.endswith(SEG_SUFFIX) else list_images(labels)
    return LabelledImage(path=labels, page=pages[0] if len(pages) > 1 else None)


def _masks(image: Path, shape: tuple[int, int], labels: LabelledImage) -> Masks:
    instances = labels.read()
    if instances.shape != shape:
        raise size_differs(image, shape, instances.shape, labels.path.name)
    return Masks.from_labels(instances)


def _coco_annotation(image: Path, annotated: CocoImage) -> dict[str, Any]:
    """The `shape`, `annotation` and `crowd` of an image's record."""
    shape = image_shape(image)
    if annotated.shape != shape:
        raise size_differs(image, shape, annotated.shape, annotated.file.name)
    crowd = annotated.crowd if annotated.crowd.entries else None
    return {"shape": shape, "annotation": annotated.cells, "crowd": crowd}


def _annotated(coco: Path, images: Mapping[str, Path]) -> dict[str, CocoImage]:
    """The entries of a COCO file whose images are there."""
    entries = {image.image_id: image for image in read_coco(coco)}
    if missing := tuple(name for name in entries if name not in images):
        log_note(Note(f"images of {coco.name} are left out: they are not beside it", missing))
    return {name: image for name, image in entries.items() if name in images}
