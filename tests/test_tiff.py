"""Tiles of a TIFF whose own headers claim more than the TIFF says."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.files import load_cv2, read_image


def jpeg_tile(edge: int, claimed: int) -> bytes:
    image = np.full((edge, edge), 90, np.uint8)
    data = bytearray(load_cv2().imencode(".jpg", image)[1].tobytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", claimed, claimed)
    return bytes(data)


def jpeg_2000_tile(claimed: int) -> bytes:
    size = struct.pack(">HHIIIIIIII", 41, 0, claimed, claimed, 0, 0, claimed, claimed, 0, 0)
    return b"\xff\x4f\xff\x51" + size + bytes(200)


def write(path: Path, tile: bytes, compression: str) -> Path:
    tifffile.imwrite(
        path,
        iter([tile] * 4),
        shape=(64, 64),
        dtype=np.uint8,
        tile=(32, 32),
        compression=compression,
        photometric="minisblack",
    )
    return path


@pytest.mark.parametrize(
    ("tile", "compression"),
    [(jpeg_tile(32, 60_000), "jpeg"), (jpeg_2000_tile(2**31), "jpeg2000")],
)
def test_a_tile_that_claims_too_much(tmp_path: Path, tile: bytes, compression: str) -> None:
    path = write(tmp_path / "a.tif", tile, compression)
    with pytest.raises(FlowsegError, match=r"a\.tif: .*a tile unpacks to more than its size"):
        read_image(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_a_tile_without_a_header(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / "a.tif", b"\xff\xd8" + bytes(100), compression)
    with pytest.raises(FlowsegError, match=r"a\.tif: is damaged: it has no JPEG"):
        read_image(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_honest_tiles_are_read(tmp_path: Path, compression: str) -> None:
    pytest.importorskip("imagecodecs", reason="such tiles cannot be read without it")
    image = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression=compression)
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - image).max() < 12
