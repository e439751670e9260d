"""Zarr arrays as images: opened only where their metadata hold what an image needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError, require
from flowseg.io.binary import decoding

_PACKING = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
_CODECS = {*_PACKING, "shuffle", "delta", "bytes", "endian", "transpose", "crc32", "crc32c"}
_CODECS |= {"sharding_indexed"}
"""Others may do anything: numcodecs has one that unpickles, which runs what a file says."""

_MAX_CHUNK = 2**30  # bytes of an unpacked chunk


def is_zarr(path: Path) -> bool:
    """Whether it is a folder that is named as a Zarr array."""
    return path.suffix.lower() == ".zarr" and path.is_dir()


def open_zarr(path: Path, limit: int) -> Any:
    """The array of a Zarr folder, of at most `limit` pixels; of an OME-Zarr image the largest."""
    zarr = require("zarr", "zarr")
    with decoding(path):
        array = zarr.open_array(_array_folder(path), mode="r")
        shape, chunks = [tuple(map(int, sides)) for sides in (array.shape, array.chunks)]
        dtype, size = array.dtype.kind, int(array.dtype.itemsize)
    # OME-Zarr puts time, channel and depth first
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] > 4) or min(shape) < 1:
        raise FlowsegError(f"has the shape {shape}, not one flat image", file=path)
    if dtype not in "buif":
        raise FlowsegError("holds no numbers that can be read as an image", file=path)
    if shape[0] * shape[1] > limit:
        raise FlowsegError(f"claims {shape[1]} x {shape[0]} pixels, too many to read", file=path)
    fit = len(chunks) == len(shape) and min(chunks) >= 1
    if not fit or math.prod(chunks) * size > _MAX_CHUNK:
        raise FlowsegError(f"has chunks of {chunks}, which cannot be read", file=path)
    return array


def read_zarr(
    array: Any, path: Path, rows: slice = slice(None), columns: slice = slice(None)
) -> NDArray[Any]:
    """Some rows and columns of an opened array, values as stored."""
    with decoding(path):
        return np.asarray(array[rows, columns])


def _array_folder(path: Path) -> Path:
    """The folder of the array, of an OME-Zarr image the largest, packed with known codecs alone.

    Metadata are checked before zarr sees them, since some codecs unpack a fill value when an array
    is opened. A group's metadata may hold a copy for each of its arrays and are not used.
    """
    for folder in (path, path / "0"):
        files = [folder / ".zarray", folder / "zarr.json"]  # of versions 2 and 3 of the format
        documents = [json.loads(file.read_bytes()) for file in files if file.is_file()]
        arrays = [document for document in documents if document.get("node_type") != "group"]
        for array in arrays:
            codecs = (array.get("compressor"), *(array.get("filters") or ()))
            _check_codecs([*(c for c in codecs if c), *array.get("codecs", ())], path)
        if arrays:
            return folder
    raise FlowsegError("holds no Zarr array, nor one that is named 0", file=path)


def _check_codecs(codecs: Iterable[Any], path: Path) -> None:
    """Refuse codecs that are not read; a shard names those of its chunks and of its index."""
    for codec in codecs:
        settings: dict[str, Any] = {"name": codec} if isinstance(codec, str) else codec
        name = str(settings.get("id") or settings["name"]).removeprefix("numcodecs.")
        if name not in _CODECS:
            raise FlowsegError(
                f"is packed in a way that is not read: {name}",
                file=path,
                remedy=f"pack it with one of {', '.join(_PACKING)}",
            )
        inner = settings.get("configuration") or {}
        _check_codecs([*inner.get("codecs", ()), *inner.get("index_codecs", ())], path)
