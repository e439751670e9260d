"""Zarr arrays as images: opened only where their metadata hold what an image needs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError, out_of_memory

__all__ = ["is_zarr", "load_zarr", "open_zarr", "read_zarr"]

_PACKING = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
_CODECS = {*_PACKING, "shuffle", "delta", "bytes", "endian", "transpose", "crc32", "crc32c"}
_CODECS |= {"sharding_indexed"}
"""Others may do anything: numcodecs has one that unpickles, which runs what a file says."""

_DOCUMENTS = (".zarray", "zarr.json")  # of versions 2 and 3 of the format

_MAX_CHUNK = 2**30  # bytes of an unpacked chunk
_SMALL_CHUNK = 2**12  # values; zarr takes a while for each chunk, however small
_MAX_SMALL_CHUNKS = 2**14


def is_zarr(path: Path) -> bool:
    """Whether it is a folder that is named as a Zarr array."""
    return path.suffix.lower() == ".zarr" and path.is_dir()


def load_zarr() -> Any:
    """The package zarr, or an error that says how to install it."""
    try:
        import zarr
    except ImportError as error:
        raise FlowsegError(
            "Zarr arrays need another package", remedy="install it: pip install 'flowseg[zarr]'"
        ) from error
    return zarr


def open_zarr(path: Path, limit: int) -> Any:
    """The array of a Zarr folder, of at most `limit` pixels; of an OME-Zarr image the largest.

    Raises
    ------
    FlowsegError
        If it cannot be read, is no flat image, is too large, or packed in a way that is not read.
    """
    zarr = load_zarr()
    try:
        array = zarr.open_array(_array_folder(path), mode="r")
        shape, chunks = [tuple(map(int, sides)) for sides in (array.shape, array.chunks)]
        kind, size = array.dtype.kind, int(array.dtype.itemsize)
    except FlowsegError:
        raise
    except Exception as error:  # damaged metadata fail anywhere in zarr, with any exception
        raise out_of_memory(error, path) or FlowsegError(
            f"cannot be read as a Zarr array: {error}", file=path
        ) from error
    # OME-Zarr puts time, channel and depth first
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] > 4) or min(shape) < 1:
        raise FlowsegError(f"has the shape {shape}, not one flat image", file=path)
    if kind not in "buif":
        raise FlowsegError("holds no numbers that can be read as an image", file=path)
    if shape[0] * shape[1] > limit:
        raise FlowsegError(f"claims {shape[1]} x {shape[0]} pixels, too many to read", file=path)
    fit = len(chunks) == len(shape) and min(chunks) >= 1
    if not fit or math.prod(chunks) * size > _MAX_CHUNK:
        raise FlowsegError(f"has chunks of {chunks}, which cannot be read", file=path)
    inside = math.prod(min(edge, side) for edge, side in zip(chunks, shape, strict=True))
    count = math.prod(-(-side // edge) for edge, side in zip(chunks, shape, strict=True))
    if inside < _SMALL_CHUNK and count > _MAX_SMALL_CHUNKS:
        raise FlowsegError(
            f"has {count} chunks of {chunks}, of which at most {_MAX_SMALL_CHUNKS} are read",
            file=path,
            remedy="save it in chunks of 64 x 64 or more",
        )
    return array


def read_zarr(
    array: Any, path: Path, rows: slice = slice(None), columns: slice = slice(None)
) -> NDArray[Any]:
    """Some rows and columns of an opened array, values as stored."""
    try:
        return np.asarray(array[rows, columns])
    except Exception as error:  # a damaged chunk fails anywhere, with any exception
        raise out_of_memory(error, path) or FlowsegError(
            f"is damaged: {error}", file=path, remedy="copy it again"
        ) from error


def _array_folder(path: Path) -> Path:
    """The folder of the array, of an OME-Zarr image the largest, packed with known codecs alone.

    Metadata are checked before zarr sees them (some codecs unpack a fill value when an array is
    opened), and there is one document that zarr can take them from: not that of a group, which
    may hold a copy for each of its arrays, nor one of the format's other version.
    """
    for folder in (path, path / "0"):
        documents = [folder / name for name in _DOCUMENTS if (folder / name).is_file()]
        if len(documents) > 1:
            raise FlowsegError(
                "holds metadata of two versions of Zarr",
                file=path,
                remedy=f"remove the wrong one of {' and '.join(_DOCUMENTS)}",
            )
        for document in documents:
            content = json.loads(document.read_bytes())
            if content.get("node_type") != "group":
                _check_codecs(content, path)
                return folder
    raise FlowsegError("holds no Zarr array, nor one that is named 0", file=path)


def _check_codecs(content: Any, path: Path) -> None:
    """Refuse an array's metadata, of version 2 or 3 of the format, that name other codecs."""
    second = [content.get("compressor"), *(content.get("filters") or ())]
    used = {str(codec["id"]) for codec in second if codec is not None}
    unknown = (used | _names(content.get("codecs", ()))) - _CODECS
    if unknown:
        raise FlowsegError(
            f"is packed in a way that is not read: {', '.join(sorted(unknown))}",
            file=path,
            remedy=f"pack it with one of {', '.join(_PACKING)}",
        )


def _names(codecs: Any) -> set[str]:
    """Of codecs of version 3, each by its name; a shard names those of its chunks and index."""
    found = set()
    for codec in codecs:
        name = codec if isinstance(codec, str) else str(codec["name"])
        found.add(name.removeprefix("numcodecs."))
        settings = {} if isinstance(codec, str) else codec.get("configuration") or {}
        for inner in ("codecs", "index_codecs"):
            found |= _names(settings.get(inner, ()))
    return found
