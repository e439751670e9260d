"""Cellpose's `_seg.npy`: the labels are read, nothing in the file is executed.

The file is a pickle, and unpickling runs whatever a pickle names. Here every name stands for a
class of our own that only keeps what it is given, so that the worst a file can do is be refused.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels, equivalent_diameter, outlines, renumber
from flowseg.errors import FlowsegError, out_of_memory
from flowseg.io.atomic import atomic_path
from flowseg.io.paths import PathLike
from flowseg.io.png_jpeg import MAX_PIXELS

__all__ = ["SEG_SUFFIX", "read_seg", "write_seg"]

SEG_SUFFIX = "_seg.npy"


def read_seg(path: PathLike) -> NDArray[np.int32]:
    """The label image of a `_seg.npy` file: (H, W) int32.

    Raises
    ------
    FlowsegError
        If the file is damaged, holds no `masks`, or they are no flat label image.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FlowsegError(f"cannot be read: {error.strerror}", file=path) from error
    try:
        masks = _entry(content, "masks").array()
        # old versions count cells from 0 and background as -1; a single plane may be (1, H, W)
        masks = masks[0] if masks.ndim == 3 and len(masks) == 1 else masks
        masks = masks.astype(np.int64) if masks.dtype != np.uint64 else masks
        return check_labels(masks + 1 if masks.size and masks.min() == -1 else masks)
    except FlowsegError as error:
        raise FlowsegError(error.problem, file=path, remedy=error.remedy) from error
    except Exception as error:  # a damaged pickle fails anywhere, with any exception
        raise out_of_memory(error, path) or FlowsegError(
            f"is no _seg.npy of Cellpose that can be read ({type(error).__name__}: {error})",
            file=path,
            remedy="save the cells again, for example as NAME_masks.tif",
        ) from error


def _entry(content: bytes, key: str) -> _Array:
    """One array of the dictionary that the file holds."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read_header(file)
    if shape != () or not dtype.hasobject:
        raise FlowsegError("holds a plain array, not what Cellpose's window saves")
    outer = _Reader(file).load()
    table = outer.state[4][0]
    if not isinstance(table.get(key), _Array):
        raise FlowsegError(f"holds no {key!r}")
    found: _Array = table[key]
    return found


class _Kept:
    """Stands for whatever the file names: keeps its arguments and state, and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None:
        """Leave out what a list of the file's own kind would hold."""

    def __setitem__(self, _: Any, __: Any) -> None:
        """Leave out what a dictionary of the file's own kind would hold."""


class _Array(_Kept):
    """An array as it is pickled: version, shape, type, order, bytes."""

    def array(self) -> NDArray[Any]:
        _, shape, dtype, fortran, data = self.state
        sizes = [int(side) for side in shape]
        if any(side < 0 for side in sizes) or int(np.prod(sizes, dtype=object)) > MAX_PIXELS:
            raise FlowsegError(f"claims an array of shape {tuple(sizes)}")
        values = np.frombuffer(_as_bytes(data), dtype=_as_dtype(dtype))
        return values.reshape(sizes, order="F" if fortran else "C")


def _load_bytearray(reader: Any) -> None:
    """Python's own makes room for as many bytes as the file claims before it looks for them."""
    reader.append(bytearray(reader.read(int.from_bytes(reader.read(8), "little"))))


class _Reader(pickle._Unpickler):
    """Unpickles plain containers, numbers and texts; every class and function becomes `_Kept`.

    The one written in Python: that in C takes as much memory as a few bytes of a file ask for.
    """

    def find_class(self, module: str, name: str) -> Any:
        array = module in ("numpy.core.multiarray", "numpy._core.multiarray")
        return _Array if array and name == "_reconstruct" else _Kept

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _load_bytearray,
    }


def _as_dtype(dtype: Any) -> np.dtype[Any]:
    name = dtype.arguments[0]
    if not (isinstance(name, str) and re.fullmatch(r"[iu][1248]|b1", name)):
        raise FlowsegError(f"holds masks of the type {name!r}, not whole numbers")
    order = dtype.state[1] if dtype.state else "|"
    return np.dtype(order + name if order in ("<", ">") else name)


def _as_bytes(data: Any) -> bytes:
    # protocol 2 writes bytes as a call of _codecs.encode(text, "latin1")
    return data if isinstance(data, bytes) else str(data.arguments[0]).encode("latin1")


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
    diameter = float(equivalent_diameter(areas).mean()) if count else 30.0
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
