"""A folder of annotated images, as corrected in napari: NAME.tif and NAME_masks.tif."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.arrays.rle import Masks
from flowseg.data.mask_repair import SMALL, find_defects, repair
from flowseg.errors import FlowsegError
from flowseg.io.images import read_image, write_image, write_labels
from flowseg.io.paths import PathLike

Region = tuple[slice, slice]


def save_annotated(
    folder: PathLike,
    name: str,
    image: NDArray[Any],
    labels: NDArray[Any],
    region: Region | None = None,
) -> str:
    """Add an image and its cells to a folder that `train` reads, and say what was saved.

    Holes are filled, of a cell in pieces the largest stays, and specks are dropped, which the
    text says. The same image saved again has its labels replaced; another one of that name becomes
    NAME_2.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    name : str
        Of the image.
    image : ndarray, shape (H, W) or (H, W, 3)
        uint8 or uint16; of any other type its range is written as uint16.
    labels : ndarray, shape (H, W)
        0 is background.
    region : (slice, slice), optional
        Rows and columns that are annotated; the rest is left out.

    Raises
    ------
    FlowsegError
        Where the shapes differ, or no cell is left.
    """
    labels = check_labels(labels)
    image = np.asarray(image)
    if image.shape[:2] != labels.shape:
        raise FlowsegError(
            f"the image is {image.shape[1]} x {image.shape[0]} pixels, "
            f"the labels {labels.shape[1]} x {labels.shape[0]}",
            remedy="choose the labels of that image",
        )
    if region is not None:
        image, labels = image[region], labels[region]
    masks = Masks.from_labels(labels)
    defects = find_defects(masks)
    fixed = repair(masks)
    if not len(fixed):
        raise FlowsegError("there is no cell to learn from", remedy="paint some")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = _storable(image)
    path = _free_path(folder, name, pixels)
    if not path.exists():
        write_image(path, pixels)
    write_labels(path.with_name(f"{path.stem}_masks.tif"), masks_to_labels(fixed))
    parts = [
        f"{count} {what}"
        for count, what in (
            (int((defects.components > 1).sum()), "in pieces (the largest stays)"),
            (int((defects.holes > 0).sum()), "with holes (filled)"),
            (int(defects.small.sum()), f"of fewer than {SMALL} pixels (left out)"),
        )
        if count
    ]
    return f"{path}: {len(fixed)} cells" + (f"; {', '.join(parts)}" if parts else "")


def _free_path(folder: Path, name: str, image: NDArray[Any]) -> Path:
    """The image's own file where it is there already, else one whose name is free."""
    stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ") or "image"
    number = 1
    while True:
        path = folder / (f"{stem}.tif" if number == 1 else f"{stem}_{number}.tif")
        if not path.exists() or np.array_equal(read_image(path), image):
            return path
        number += 1


def _storable(image: NDArray[Any]) -> NDArray[Any]:
    if image.dtype in (np.uint8, np.uint16):
        return image[..., :3] if image.ndim == 3 else image
    values = np.nan_to_num(image.astype(np.float64), nan=np.nanmin(image))
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (65535 / (high - low) if high > low else 0)
    stored: NDArray[Any] = np.rint(scaled).astype(np.uint16)
    return stored[..., :3] if stored.ndim == 3 else stored
