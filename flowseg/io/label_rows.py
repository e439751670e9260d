"""Writes label images that come strip by strip, and never lie in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowseg.io.atomic import atomic_folder, atomic_path
from flowseg.io.paths import PathLike
from flowseg.io.zarr import load_zarr

__all__ = ["write_labels_by_rows"]

Strips = Iterator[NDArray[np.int32]]
Shape = tuple[int, int]

_TILE = 512


def write_labels_by_rows(path: PathLike, strips: Strips, shape: Shape) -> None:
    """Write a label image that comes strip by strip: uint32, compressed, in tiles of 512 x 512.

    Parameters
    ----------
    path : path
        Appears when the last strip has come. Ends in .tif for a BigTIFF, in .zarr for a Zarr array
        (a folder, in version 2 of the format, which every reader knows).
    strips : iterator of ndarray, shape (h, W), int32
        From the top; together they are the image.
    shape : (int, int)
        Height and width of the image.
    """
    if Path(path).suffix == ".zarr":
        _write_zarr(Path(path), strips, shape)
    else:
        _write_tiff(Path(path), strips, shape)


def _write_tiff(path: Path, strips: Strips, shape: Shape) -> None:
    import tifffile

    def tiles() -> Iterator[NDArray[np.uint32]]:
        for row in _rows_of_tiles(strips, shape[1]):
            for left in range(0, shape[1], _TILE):
                piece = row[:, left : left + _TILE]
                full = np.zeros((_TILE, _TILE), np.uint32)
                full[: piece.shape[0], : piece.shape[1]] = piece
                yield full

    with atomic_path(path) as part, tifffile.TiffWriter(part, bigtiff=True) as writer:
        writer.write(
            tiles(),
            shape=shape,
            dtype=np.uint32,
            tile=(_TILE, _TILE),
            photometric="minisblack",
            compression="zlib",
            metadata=None,
            software=False,
        )


def _write_zarr(path: Path, strips: Strips, shape: Shape) -> None:
    zarr = load_zarr()
    version = {"zarr_format": 2} if int(zarr.__version__.split(".")[0]) > 2 else {}
    with atomic_folder(path) as part:
        array = zarr.open_array(
            str(part),
            mode="w",
            shape=shape,
            chunks=(_TILE, _TILE),
            dtype="u4",
            fill_value=0,
            **version,
        )
        top = 0
        for row in _rows_of_tiles(strips, shape[1]):
            array[top : top + len(row)] = row.astype(np.uint32)
            top += len(row)


def _rows_of_tiles(strips: Strips, width: int) -> Strips:
    waiting = np.empty((0, width), np.int32)
    for strip in strips:
        waiting = np.concatenate((waiting, strip))
        while len(waiting) >= _TILE:
            yield waiting[:_TILE]
            waiting = waiting[_TILE:]
    if len(waiting):
        yield waiting
