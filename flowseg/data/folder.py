"""Folders of images and label images, in the layouts that microscopists have."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.components import connected_components
from flowseg.arrays.rle import Masks
from flowseg.data.groups import groups_of_names
from flowseg.data.record import Record, size_differs
from flowseg.errors import FlowsegError
from flowseg.formats.seg_npy import read_seg
from flowseg.io.images import image_shape, read_labels
from flowseg.io.paths import LAYOUTS, SEG_SUFFIX, PathLike, check_name, match_labels
from flowseg.io.tables import read_table

CELL_TYPE = "cell"
"""The cell type of a folder's images where none is named."""

TYPE_TABLE = "cell_types.csv"
"""A table in the folder: `id`, `cell_type` where images are of several types, maybe `group`."""

_FOREGROUND_COMPONENTS = 5  # one id on so many says "cell here", not which cell

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
        Images without labels are left out, and named in the log.

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
    if not labels:
        raise FlowsegError(
            "holds neither a train.csv nor images with labels", file=folder, remedy=remedy
        )
    if stray := sorted(path for name, path in labels.items() if name not in images):
        raise FlowsegError("holds labels, but there is no image for it", file=stray[0])
    types = _read_column(folder / TYPE_TABLE, "cell_type")
    if bare := [image.name for name, image in images.items() if name not in labels]:
        shown = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
        _log.info("%d images without labels are left out: %s", len(bare), shown)
    groups = groups_of_names(labels)
    named = _read_column(folder / TYPE_TABLE, "group") or {}
    groups |= {name: group for name, group in named.items() if group and name in groups}
    _log_groups(groups)
    pairs = [(images[name], path) for name, path in labels.items()]
    bar = tqdm(pairs, desc="reading labels", unit="image", delay=2, leave=False)
    records = [
        _record(
            image, path, cell_type if types is None else _type_of(image, types), groups[image.stem]
        )
        for image, path in bar
    ]
    return sorted(records, key=lambda record: record.image_id)


def read_label_file(path: Path) -> NDArray[np.int32]:
    """Labels from an image file or a `_seg.npy`: (H, W) int32."""
    return read_seg(path) if path.name.endswith(SEG_SUFFIX) else read_labels(path)


def read_instances(path: Path) -> NDArray[np.int32]:
    """As `read_label_file`, but a mask of where cells are (one id, many components) is refused."""
    labels = read_label_file(path)
    top = labels.max(initial=0)
    if top and not ((labels != 0) & (labels != top)).any():
        count = int(connected_components(labels, True).max())
        if count >= _FOREGROUND_COMPONENTS:
            raise FlowsegError(
                f"gives all its {count} pieces the one number {top}",
                file=path,
                remedy="give every cell a number of its own (in ImageJ: Analyze Particles, "
                "Show: Count Masks)",
            )
    return labels


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


def _record(image: Path, labels: Path, cell_type: str, group: str) -> Record:
    image_id = check_name(image.stem, file=image)
    shape = image_shape(image)
    instances = read_instances(labels)
    if instances.shape != shape:
        raise size_differs(image, shape, instances.shape, labels.name)
    return Record(
        image_id=image_id,
        image_path=image,
        shape=shape,
        cell_type=cell_type,
        group=group,
        annotation=Masks.from_labels(instances),
    )
