"""Writes a label image some rows at a time, so that it is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import require
from flowseg.io.atomic import atomic_folder, atomic_path
from flowseg.io.paths import PathLike
from flowseg.io.physical import PixelSize

Rows = Iterator[NDArray[np.int32]]
Shape = tuple[int, int]

_TILE = 512


def write_labels_by_rows(
    path: PathLike, rows: Rows, shape: Shape, pixel_size: PixelSize | None = None
) -> None:
    """Write a label image that comes in groups of (h, W) rows: uint32, compressed, tiles of 512.

    The path ends in .tif for a BigTIFF, in .zarr for a Zarr array (a folder, in version 2 of the
    format, which every reader knows), and appears when the last row is written.
    """
    if Path(path).suffix == ".zarr":
        _write_zarr(Path(path), rows, shape)
    else:
        _write_tiff(Path(path), rows, shape, pixel_size)


def _write_tiff(path: Path, rows: Rows, shape: Shape, pixel_size: PixelSize | None) -> None:
    import tifffile

    def tiles() -> Iterator[NDArray[np.uint32]]:
        for row in _rows_of_tiles(rows, shape[1]):
            for left in range(0, shape[1], _TILE):
                tile = row[:, left : left + _TILE]
                padded = np.zeros((_TILE, _TILE), np.uint32)
                padded[: tile.shape[0], : tile.shape[1]] = tile
                yield padded

    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as writer:
        writer.write(
            tiles(),
            shape=shape,
            dtype=np.uint32,
            tile=(_TILE, _TILE),
            photometric="minisblack",
            compression="zlib",
            metadata=None,
            software=False,
            **(pixel_size.tiff_tags() if pixel_size else {}),
        )


def _write_zarr(path: Path, rows: Rows, shape: Shape) -> None:
    zarr = require("zarr", "zarr")
    version = {"zarr_format": 2} if int(zarr.__version__.split(".")[0]) > 2 else {}
    with atomic_folder(path) as temporary:
        array = zarr.open_array(
            str(temporary),
            mode="w",
            shape=shape,
            chunks=(_TILE, _TILE),
            dtype="u4",
            fill_value=0,
            **version,
        )
        top = 0
        for row in _rows_of_tiles(rows, shape[1]):
            array[top : top + len(row)] = row.astype(np.uint32)
            top += len(row)


def _rows_of_tiles(groups: Rows, width: int) -> Rows:
    """The same rows in groups of the height of a tile."""
    waiting = np.empty((0, width), np.int32)
    for rows in groups:
        waiting = np.concatenate((waiting, rows))
        while len(waiting) >= _TILE:
            yield waiting[:_TILE]
            waiting = waiting[_TILE:]
    if len(waiting):
        yield waiting
