"""Images beside label images, as any microscopist may have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.components import connected_components
from flowseg.arrays.rle import Masks
from flowseg.data.record import Record, size_differs
from flowseg.errors import FlowsegError
from flowseg.formats.seg_npy import SEG_SUFFIX, read_seg
from flowseg.io.images import image_shape, read_labels
from flowseg.io.paths import LABEL_ENDINGS, PathLike, check_name, find_images
from flowseg.io.tables import read_table

__all__ = ["CELL_TYPE", "LAYOUTS", "TYPE_TABLE", "find_labels", "read_folder", "read_own_labels"]

CELL_TYPE = "cell"
"""The cell type of a folder's images where none is named."""

TYPE_TABLE = "cell_types.csv"
"""A table in the folder, `id,cell_type`, where its images are of several types."""

LAYOUTS = "NAME.tif beside NAME_masks.tif, NAME_masks.png or NAME_seg.npy, or images/ and masks/"
"""What a folder may look like, for messages."""

_LABEL_SUFFIXES = (".tif", ".tiff", ".png")
_FOREGROUND_PIECES = 5  # one number on so many pieces says "cell here", not which cell

_log = logging.getLogger(__name__)


def read_folder(folder: PathLike, cell_type: str = CELL_TYPE) -> list[Record]:
    """Read images and their label images.

    Parameters
    ----------
    folder : path
        Holds ``NAME.tif`` (or any image file) and beside it ``NAME_masks.tif``, ``.png`` or
        Cellpose's ``NAME_cp_masks.*`` or ``NAME_seg.npy``; or ``images/NAME.tif`` and
        ``masks/NAME.tif`` (the endings above are taken there, too). Any bit depth.
    cell_type : str
        That of all its images, unless the folder holds a table of them, ``cell_types.csv`` with the
        columns `id` and `cell_type`.

    Returns
    -------
    list of Record
        Sorted by image id, the file's name without suffix; each image is a group of its own.
        Images without labels are passed over, and named in the log.

    Raises
    ------
    FlowsegError
        If no image has labels, labels have no image or two candidates, the two differ in size,
        a label image only tells cells from background, or an image is not in the table.
    """
    folder = Path(folder)
    types = _read_types(folder / TYPE_TABLE)
    pairs, bare = _pairs(folder)
    if not pairs:
        raise FlowsegError(
            "holds neither a train.csv nor images with labels", file=folder, remedy=_remedy()
        )
    if bare:
        shown = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
        _log.info("%d images without labels are passed over: %s", len(bare), shown)
    bar = tqdm(pairs, desc="reading labels", unit="image", delay=2, leave=False)
    records = [
        _record(image, labels, cell_type if types is None else _type_of(image, types))
        for image, labels in bar
    ]
    return sorted(records, key=lambda record: record.image_id)


def find_labels(folder: PathLike) -> dict[str, tuple[Path | None, Path]]:
    """The label files of a folder by image id, each with its image where that is known.

    Parameters
    ----------
    folder : path
        As for `read_folder`; or label images only, each named as its image.
    """
    folder = Path(folder)
    pairs, _ = _pairs(folder)
    if pairs:
        return {image.stem: (image, labels) for image, labels in pairs}
    return {path.stem: (None, path) for path in find_images(folder)}


def read_own_labels(path: Path) -> NDArray[np.int32]:
    """Labels from an image file or a `_seg.npy`: (H, W) int32.

    Raises
    ------
    FlowsegError
        As `files.read_labels` and `seg_npy.read_seg`; also if one single id is spread over many
        pieces: a picture of where cells are, not of which cell is where.
    """
    read: Callable[[Path], NDArray[np.int32]] = (
        read_seg if path.name.endswith(SEG_SUFFIX) else read_labels
    )
    labels = read(path)
    top = labels.max(initial=0)
    if top and not ((labels != 0) & (labels != top)).any():
        pieces = int(connected_components(labels, True).max())
        if pieces >= _FOREGROUND_PIECES:
            raise FlowsegError(
                f"gives all its {pieces} pieces the one number {top}",
                file=path,
                remedy="give every cell a number of its own (in ImageJ: Analyze Particles, "
                "Show: Count Masks)",
            )
    return labels


def _remedy() -> str:
    return f"name a folder of {LAYOUTS}; or the unzipped competition (--data)"


def _pairs(folder: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Images with their label files, and the names of images without."""
    images, candidates = _files(folder)
    pairs, bare = [], []
    for image in images:
        labels = candidates.pop(image.stem, [])
        if len(labels) > 1:
            raise FlowsegError(
                f"has two label files: {labels[0].name} and {labels[1].name}",
                file=image,
                remedy="keep one of them in the folder",
            )
        if labels:
            pairs.append((image, labels[0]))
        else:
            bare.append(image.name)
    if candidates:
        stray = sorted(path for paths in candidates.values() for path in paths)[0]
        raise FlowsegError("holds labels, but there is no image for it", file=stray)
    return pairs, bare


def _files(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The images of a folder, and label files by the name of the image they are for."""
    if not folder.is_dir():
        raise FlowsegError("is no folder", file=folder, remedy=_remedy())
    places = folder / "images", folder / "masks"
    apart = all(place.is_dir() for place in places)
    try:
        images = find_images(places[0] if apart else folder)
    except FlowsegError as error:
        raise FlowsegError(error.problem, file=error.file, remedy=_remedy()) from error
    labels: dict[str, list[Path]] = {}
    for path in sorted((places[1] if apart else folder).iterdir()):
        name = None if path.name.startswith(".") else _image_name(path, apart)
        if name is not None:
            labels.setdefault(name, []).append(path)
    return [image for image in images if apart or _image_name(image, False) is None], labels


def _image_name(path: Path, apart: bool) -> str | None:
    """The name of the image that a label file is for; None for another file."""
    if path.name.endswith(SEG_SUFFIX):
        return path.name.removesuffix(SEG_SUFFIX)
    if path.suffix.lower() not in _LABEL_SUFFIXES:
        return None
    return _without(path.stem, LABEL_ENDINGS) or (path.stem if apart else None)


def _without(stem: str, endings: Sequence[str]) -> str | None:
    return next((stem.removesuffix(end) for end in endings if stem.endswith(end)), None)


def _read_types(table: Path) -> dict[str, str] | None:
    if not table.exists():
        return None
    rows = read_table(table, ("id", "cell_type"))
    return dict(zip(rows["id"], rows["cell_type"], strict=True))


def _type_of(image: Path, types: Mapping[str, str]) -> str:
    if not types.get(image.stem):
        raise FlowsegError(f"has no cell type in {TYPE_TABLE}", file=image, remedy="add it there")
    return types[image.stem]


def _record(image: Path, labels: Path, cell_type: str) -> Record:
    image_id = check_name(image.stem, file=image)
    shape = image_shape(image)
    own = read_own_labels(labels)
    if own.shape != shape:
        raise size_differs(image, shape, own.shape, labels.name)
    return Record(
        image_id=image_id,
        image_path=image,
        shape=shape,
        cell_type=cell_type,
        group=image_id,
        annotation=Masks.from_labels(own),
    )
