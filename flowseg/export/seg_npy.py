"""Cellpose's `_seg.npy`, which its window opens to look at cells and to correct them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.files import PathLike, atomic_path
from flowseg.labels import check_labels, outlines, renumber

__all__ = ["write_seg"]


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
        Ends in `_seg.npy`; what was there is replaced.
    labels : (H, W) integer
        Cellpose counts cells without gaps; the order of the numbers is kept.
    file_name : str
        Of the image; Cellpose's window looks for it beside the file.
    image : (H, W) or (H, W, C), optional
        Kept in the file, which then opens wherever it is.
    """
    masks = renumber(check_labels(labels))
    count = int(masks.max(initial=0))
    kind = np.uint16 if count < np.iinfo(np.uint16).max else np.uint32
    areas = np.bincount(masks.reshape(-1), minlength=1)[1:]
    diameter = float(np.mean(2 * np.sqrt(areas / np.pi))) if count else 30.0
    content = {
        "masks": masks.astype(kind),
        "outlines": np.where(outlines(masks), masks, 0).astype(kind),
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
