"""Cellpose's `_seg.npy`, read without executing what is in it, and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels, equivalent_diameter, outlines, renumber
from flowseg.errors import FlowsegError
from flowseg.io.atomic import atomic_path
from flowseg.io.npy_dictionary import read_npy_dictionary
from flowseg.io.paths import PathLike

_REMEDY = "save the cells again, for example as NAME_masks.tif"


def read_seg(path: PathLike) -> NDArray[np.int32]:
    """The label image of a `_seg.npy` file: (H, W) int32.

    Raises FlowsegError if the file is damaged, names more than arrays and plain containers, holds
    no `masks`, or they are no label image of one plane.
    """
    path = Path(path)
    content = read_npy_dictionary(path, remedy=_REMEDY)
    try:
        masks = content.get("masks")
        if not isinstance(masks, np.ndarray):
            raise FlowsegError("holds no 'masks'")
        masks = masks[0] if masks.ndim == 3 and len(masks) == 1 else masks
        if masks.dtype.kind == "f" and (np.rint(masks) == masks).all():
            masks = masks.clip(-1, 2.0**62).astype(np.int64)
        if masks.dtype.kind not in "iub":
            raise FlowsegError(f"holds masks of the type {masks.dtype}, not whole numbers")
        masks = masks.astype(np.int64) if masks.dtype != np.uint64 else masks
        # old versions count cells from 0, and background is -1
        return check_labels(masks + 1 if masks.size and masks.min() == -1 else masks)
    except FlowsegError as error:
        raise error.at(path) from error


def write_seg(
    path: PathLike,
    labels: NDArray[np.integer[Any]],
    *,
    file_name: str,
    image: NDArray[Any] | None = None,
) -> None:
    """Write a `_seg.npy` file.

    Parameters
    ----------
    path : path
        Ends in `_seg.npy`; an older file is replaced.
    labels : (H, W) integer
        Written with ids 1..N without gaps, as Cellpose counts them; their order is kept.
    file_name : str
        Of the image; Cellpose's window looks for it beside the file.
    image : (H, W) or (H, W, C), optional
        Stored in the file, which then opens without the image file.
    """
    masks = renumber(check_labels(labels))
    ids, areas = fastremap.unique(masks, return_counts=True)
    areas = areas[ids > 0]
    count = len(areas)
    dtype = np.uint16 if count < np.iinfo(np.uint16).max else np.uint32
    diameter = float(equivalent_diameter(areas).mean()) if count else 30.0
    content = {
        "masks": masks.astype(dtype),
        "outlines": np.where(outlines(masks), masks, 0).astype(dtype),
        "chan_choose": [0, 0],  # grey
        "ismanual": np.zeros(count, dtype=np.bool_),
        "filename": file_name,
        "flows": [[], [], [], [], [[]]],  # none: the window keeps the masks as they are
        "diameter": diameter,
        "est_diam": diameter,
    }
    if image is not None:
        content["img"] = image
    with atomic_path(path) as part, part.open("wb") as file:
        holder = np.empty((), dtype=object)
        holder[()] = content
        np.save(file, holder, allow_pickle=True)
