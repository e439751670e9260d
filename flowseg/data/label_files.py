"""Label files of flowseg and of other tools, read as labels: what every command takes as labels.

A folder's label files are those of :func:`flowseg.io.paths.find_labels`: label images, stacks of
them, Zarr arrays and Cellpose's `_seg.npy`. Raw images are refused by what their numbers are, and
masks that only say where cells are by all of a folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import connected_components
from flowseg.arrays.labels import as_labels
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.errors import FlowsegError
from flowseg.formats.coco_reader import CocoImage, read_coco_images
from flowseg.formats.seg_npy import read_seg
from flowseg.io.image_source import ImageSource, list_images
from flowseg.io.images import read_labels
from flowseg.io.paths import SEG_SUFFIX, PathLike, find_labels, match_labels
from flowseg.io.zarr import is_zarr

Labels = NDArray[np.int32]

_FOREGROUND_COMPONENTS = 5  # one id on so many says "cell here", not which cell
_PIECES_EACH = 2  # components of each number on average, from which on numbers are no cells
_START = 2**16  # bytes in which a COCO file names its members
_BLANK = b"\xef\xbb\xbf \t\r\n"
_WHITE = (255, 65535)
_SCATTERED = 10  # components of each number on average; cells have one, or a few
_LEAST_PIECES = 50  # fewer may be chance
_SMALLEST_PIECE = 2.0  # pixels on average


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """The labels of one image, in a file of their own or as a page of one.

    Attributes
    ----------
    path : Path
        The label file.
    page : ImageSource or None
        Which of its images, where it is not the only one.
    image : Path or None
        The image file, where it is in the folder.
    coco : CocoImage or None
        Its entry, where the label file is COCO JSON.
    """

    path: Path
    page: ImageSource | None = None
    image: Path | None = None
    coco: CocoImage | None = None

    @property
    def file_name(self) -> str:
        """Of the image, where it is known, else of the label file."""
        return self.path.name if self.coco is None else PurePosixPath(self.coco.file_name).name

    def find_image(self) -> ImageSource | None:
        """The image in the folder; a page where the labels are one, too."""
        if self.image is None:
            return None
        index = 0 if self.page is None else self.page.index
        images = list_images(self.image)
        return images[index] if index < len(images) else None

    def read(self) -> Labels:
        """The labels, (H, W) int32; raw images are refused."""
        if self.coco is not None:
            return masks_to_labels(self.coco.masks())
        labels = read_label_file(self.path) if self.page is None else _page_labels(self.page)
        _refuse_raw(labels, self.path)
        return labels


def labelled_images(path: PathLike) -> dict[str, LabelledImage]:
    """The labels of a folder or COCO file by image id; pages of a stack are images of their own.

    Raises
    ------
    FlowsegError
        As :func:`flowseg.io.paths.find_labels`; also if the header of a label file cannot be read,
        or the labels are masks of where cells are.
    """
    coco = Path(path) if Path(path).suffix.lower() == ".json" else find_coco(path)
    if coco is not None:
        return {
            image.image_id: LabelledImage(path=coco, coco=image) for image in read_coco_images(coco)
        }
    found: dict[str, LabelledImage] = {}
    for name, (image, file) in find_labels(path).items():
        pages = [] if file.name.endswith(SEG_SUFFIX) else list_images(file)
        if len(pages) < 2:
            found[name] = LabelledImage(path=file, image=image)
            continue
        for page in pages:
            item = LabelledImage(path=file, page=page, image=image)
            found[f"{name}_{page.index:04d}"] = item
    check_instances(found.values())
    return found


def find_coco(folder: PathLike) -> Path | None:
    """The COCO file of a folder without label files: annotations.json, or its only COCO file.

    Raises
    ------
    FlowsegError
        If there are several.
    """
    folder = Path(folder)
    if not folder.is_dir() or match_labels(folder)[1]:
        return None
    files = [path for path in sorted(folder.glob("*.json")) if _is_coco(path)]
    named = [path for path in files if path.name == "annotations.json"]
    if len(files) > 1 and not named:
        raise FlowsegError(
            f"holds several COCO files: {files[0].name}, {files[1].name}",
            file=folder,
            remedy="name the one to use annotations.json",
        )
    return next(iter(named or files), None)


def _is_coco(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_START)
    return start.lstrip(_BLANK)[:1] == b"{" and (b'"images"' in start or b'"annotations"' in start)


def read_label_file(path: Path) -> Labels:
    """Labels from an image file, a Zarr array or a `_seg.npy`: (H, W) int32."""
    if path.name.endswith(SEG_SUFFIX):
        return read_seg(path)
    if not is_zarr(path):
        return read_labels(path)
    images = list_images(path)
    if len(images) > 1:
        raise FlowsegError(f"holds {len(images)} images, one is expected", file=path)
    return _page_labels(images[0])


def _page_labels(page: ImageSource) -> Labels:
    try:
        return as_labels(page.read(as_stored=True))
    except FlowsegError as error:
        raise error.at(page.path) from error


def check_instances(items: Iterable[LabelledImage]) -> None:
    """Refuse label images that say what is a cell, of which kind or colour, but not which cell.

    They have few numbers, on many components each. Read only until an image shows that its numbers
    are cells.

    Raises
    ------
    FlowsegError
        For the image of most components.
    """
    counts: dict[Path, tuple[int, set[int]]] = {}
    for item in items:
        labels = item.read()
        numbers = {int(number) for number in np.unique(labels[labels != 0])}
        if not numbers:
            continue
        pieces = int(connected_components(labels, True).max())
        if len(numbers) > 1 and pieces < _PIECES_EACH * len(numbers):
            return
        counts[item.path] = pieces, numbers
    if not counts:
        return
    path, (most, numbers) = max(counts.items(), key=lambda entry: entry[1][0])
    used = set().union(*(numbers for _, numbers in counts.values()))
    total = sum(pieces for pieces, _ in counts.values())
    white = len(used) == 1 and used <= {*_WHITE}
    if most >= (2 if white else _FOREGROUND_COMPONENTS * len(used)) or (
        total >= max(_FOREGROUND_COMPONENTS * len(used), 2 * len(counts) * len(used))
    ):
        which = f"the one number {min(numbers)}" if len(numbers) == 1 else f"{len(numbers)} numbers"
        raise FlowsegError(
            f"gives all its {most} pieces {which}",
            file=path,
            remedy="give every cell a number of its own (in ImageJ: Analyze Particles, "
            "Show: Count Masks)",
        )


def _refuse_raw(labels: Labels, path: Path) -> None:
    """Refuse an image whose numbers are scattered, as grey values are."""
    pieces = int(connected_components(labels, True).max(initial=0))
    if pieces < _LEAST_PIECES:
        return
    present: NDArray[Any] = labels[labels != 0]
    numbers = len(np.unique(present))
    if pieces >= _SCATTERED * numbers > _SCATTERED or len(present) < _SMALLEST_PIECE * pieces:
        raise FlowsegError(
            f"is no label image: its {numbers} numbers lie in {pieces} pieces, as grey values do, "
            "or colours of a picture of labels",
            file=path,
            remedy="name the label images, with a number for each cell, or put them beside the "
            "images as NAME_masks.tif",
        )
