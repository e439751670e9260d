"""Cellpose's `_seg.npy`, read without executing what is in it, and written.

The file is a pickle, and unpickling calls whatever a pickle names. Here it may name numpy's arrays
and plain containers only; a file that names anything else is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path, PurePosixPath
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels, equivalent_diameter, outlines, renumber
from flowseg.errors import FlowsegError
from flowseg.io.atomic import atomic_path
from flowseg.io.binary import open_binary
from flowseg.io.paths import PathLike

LARGEST = 2**33
"""Bytes; a larger file is not read into memory."""

_ALLOWED = {
    "numpy": {"ndarray", "dtype"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "_codecs": {"encode"},
    "builtins": {"bytearray", "bytes", "complex", "dict", "frozenset", "list", "set", "tuple"},
}
_OLD_NAMES = {"numpy.core.multiarray": "numpy._core.multiarray", "__builtin__": "builtins"}


def read_seg(path: PathLike) -> NDArray[np.int32]:
    """The label image of a `_seg.npy` file: (H, W) int32.

    Raises FlowsegError if the file is damaged, names more than arrays and plain containers, holds
    no `masks`, or they are no label image of one plane.
    """
    path = Path(path)
    with open_binary(path) as file:
        if path.stat().st_size > LARGEST:
            raise FlowsegError(f"is larger than {LARGEST >> 30} GiB", file=path)
        content = file.read()
    try:
        masks = _load(content).get("masks")
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
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle fails anywhere, with any exception
        raise FlowsegError(
            f"is no _seg.npy of Cellpose that can be read ({type(error).__name__}: {error})",
            file=path,
            remedy="save the cells again, for example as NAME_masks.tif",
        ) from error


def _load(content: bytes) -> dict[str, Any]:
    """The dictionary that the file holds."""
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # as of every header so short
    if shape != () or not dtype.hasobject:
        raise FlowsegError("holds a plain array, not what Cellpose's window saves")
    start = file.tell()
    # Unpickling makes room for as many values as the file claims before it looks for them.
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name.endswith("PUT") and int(argument or 0) > len(content):
            raise ValueError("numbers more values than it holds")
    file.seek(start)
    found = _Reader(file).load().item()
    if not isinstance(found, dict):
        raise FlowsegError("holds no 'masks'")
    return found


class _Reader(pickle.Unpickler):
    """Unpickles arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "WindowsPath"):
            return PurePosixPath  # of either system
        module = _OLD_NAMES.get(module, module)
        if name not in _ALLOWED.get(module, ()):
            raise FlowsegError(
                f"names {module}.{name}, which a label file does not need; it was not executed",
                remedy="save the cells again, for example as NAME_masks.tif",
            )
        return super().find_class(module, name)


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
