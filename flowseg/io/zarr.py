"""Zarr folders: their images, opened only where their metadata hold what an image needs."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError, require
from flowseg.io.binary import decoding
from flowseg.io.physical import PixelSize, channel_number, in_micrometres, warn_of_channels

_PACKING = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
_CODECS = {*_PACKING, "shuffle", "delta", "bytes", "endian", "transpose", "crc32", "crc32c"}
_CODECS |= {"sharding_indexed"}
"""Others may do anything: numcodecs has one that unpickles, which runs what a file says."""

_MAX_CHUNK = 2**30  # bytes of an unpacked chunk


def is_zarr(path: Path) -> bool:
    """Whether it is a folder that is named as a Zarr array."""
    return path.suffix.lower() == ".zarr" and path.is_dir()


class ZarrImage(NamedTuple):
    """One image of a Zarr folder.

    Attributes
    ----------
    array : str
        Folder of its array, within that of the store.
    plane : tuple of int
        Indices before those of rows and columns.
    shape : (int, int)
        Height and width in pixels.
    pixel_size : PixelSize, optional
    """

    array: str
    plane: tuple[int, ...]
    shape: tuple[int, int]
    pixel_size: PixelSize | None


def list_zarr(path: Path, limit: int, channel: int | str | None = None) -> list[ZarrImage]:
    """The images of a Zarr folder, of an OME-Zarr image in full size.

    Each plane (time, channel, depth) of an OME-Zarr image is an image, and so is each image of
    bioformats2raw's folders. Arrays whose axes have no names hold one image: their axes of length
    one are dropped.

    Parameters
    ----------
    path : Path
    limit : int
        Pixels of the largest image.
    channel : int or str, optional
        The only one to list, from 0 or by its name.

    Raises
    ------
    FlowsegError
        If it cannot be read, is no image, is too large, or packed in a way that is not read.
    """
    found: list[ZarrImage] = []
    for name in _arrays(path):
        array = open_zarr(path, name, limit)
        shape = tuple(map(int, array.shape))
        about = _Multiscale.read((path / name).parent if name else path)
        before = shape[: _leading(shape)]
        axes = about.axes if len(about.axes) == len(shape) else ()
        several = [axis for axis, length in enumerate(before) if length > 1]
        channels = [a for a in range(len(before)) if axes and axes[a] == "c"]
        if not axes:
            if len(several) > 1 or (several and channel is None):
                count = math.prod(before)
                raise FlowsegError(
                    f"has the shape {shape}, not one flat image but {count}",
                    file=path,
                    remedy="name its axes as OME-Zarr does, or pick one of them with --channel",
                )
            channels = several
        axis = channels[0] if channels else None
        picked = None
        if channel is not None:
            count = before[axis] if axis is not None else 1
            picked = channel_number(channel, count, about.channels, path)
        elif axis is not None and before[axis] > 1:
            warn_of_channels(path, before[axis], about.channels)
        found += [
            ZarrImage(name, plane, (shape[len(before)], shape[len(before) + 1]), about.pixel_size)
            for plane in np.ndindex(*before)
            if picked is None or axis is None or plane[axis] == picked
        ]
    return found


def open_zarr(path: Path, name: str, limit: int) -> Any:
    """An array of a Zarr folder, whose images have at most `limit` pixels."""
    zarr = require("zarr", "zarr")
    _is_array(path / name, path)
    with decoding(path):
        array = zarr.open_array(path / name, mode="r")
        shape, chunks = [tuple(map(int, sides)) for sides in (array.shape, array.chunks)]
        dtype, size = array.dtype.kind, int(array.dtype.itemsize)
    if len(shape) < 2 or min(shape) < 1:
        raise FlowsegError(f"has the shape {shape}, not one flat image", file=path)
    if dtype not in "buif":
        raise FlowsegError("holds no numbers that can be read as an image", file=path)
    height, width = shape[_leading(shape) :][:2]
    if height * width > limit:
        raise FlowsegError(f"claims {width} x {height} pixels, too many to read", file=path)
    fit = len(chunks) == len(shape) and min(chunks) >= 1
    if not fit or math.prod(chunks) * size > _MAX_CHUNK:
        raise FlowsegError(f"has chunks of {chunks}, which cannot be read", file=path)
    return array


def read_zarr(
    array: Any,
    path: Path,
    plane: tuple[int, ...] = (),
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> NDArray[Any]:
    """Some rows and columns of a plane of an opened array, values as stored."""
    with decoding(path):
        return np.asarray(array[(*plane, rows, columns)])


def _leading(shape: tuple[int, ...]) -> int:
    """The number of axes before rows and columns; colours may come after these."""
    colour = len(shape) == 3 and shape[2] <= 4 < shape[1]
    return 0 if colour else len(shape) - 2


class _Multiscale(NamedTuple):
    """What the metadata of an OME-Zarr image say of it."""

    first: str = "0"
    axes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    pixel_size: PixelSize | None = None

    @classmethod
    def read(cls, folder: Path) -> _Multiscale:
        """Of a group; what is not there or not understood is left open."""
        try:
            attributes = _documents(folder, ".zattrs", "zarr.json")
            attributes = [document.get("attributes", document) for document in attributes]
            about = next(
                inner
                for document in attributes
                for inner in (document.get("ome", document),)
                if inner.get("multiscales")
            )
            scales = about["multiscales"][0]
            level = scales["datasets"][0]
            first = str(level["path"])
            if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", first):
                first = "0"
            axes = [a if isinstance(a, dict) else {"name": a} for a in scales.get("axes", ())]
            labels = [str(c.get("label", "")) for c in about.get("omero", {}).get("channels", ())]
            steps = [t["scale"] for t in level.get("coordinateTransformations", ()) if "scale" in t]
            size = None
            if steps and len(axes) == len(steps[0]):
                y, x = ((steps[0][k], str(axes[k].get("unit"))) for k in (-2, -1))
                size = in_micrometres(y, x)
            names = tuple(str(axis["name"]).lower() for axis in axes)
        except (StopIteration, LookupError, TypeError, AttributeError, ValueError, OSError):
            return cls()
        return cls(first, names, tuple(labels), size)


def _arrays(path: Path) -> list[str]:
    """The folders of the arrays: the store itself, its first level, or those of its images."""
    if _is_array(path, path):
        return [""]
    first = _Multiscale.read(path).first
    if _is_array(path / first, path):
        return [first]
    found = []
    for number in itertools.count():
        name = f"{number}/{_Multiscale.read(path / str(number)).first}"
        if not _is_array(path / name, path):
            break
        found.append(name)
    if not found:
        raise FlowsegError("holds no Zarr array, nor one that is named 0", file=path)
    return found


def _documents(folder: Path, *names: str) -> list[dict[str, Any]]:
    files = [folder / name for name in names]
    return [json.loads(file.read_bytes()) for file in files if file.is_file()]


def _is_array(folder: Path, path: Path) -> bool:
    """Whether it is the folder of an array; one that is packed with unknown codecs is refused.

    Metadata are checked before zarr sees them, since some codecs unpack a fill value when an array
    is opened. A group's metadata may hold a copy for each of its arrays and are not used.
    """
    with decoding(path):
        documents = _documents(folder, ".zarray", "zarr.json")  # of versions 2 and 3 of the format
        arrays = [document for document in documents if document.get("node_type") != "group"]
        for array in arrays:
            codecs = (array.get("compressor"), *(array.get("filters") or ()))
            _check_codecs([*(c for c in codecs if c), *array.get("codecs", ())], path)
    return bool(arrays)


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
