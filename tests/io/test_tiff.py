"""TIFF files: pages of any packing, and those whose headers or tiles claim what is not so."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.io import tiff as _tiff
from flowseg.io.image_source import list_images
from flowseg.io.images import image_shape, read_image
from flowseg.io.opencv import load_cv2
from helpers.pictures import one_line, write_lzw


@pytest.mark.parametrize("compression", [None, "zlib", "packbits", "lzw", "zstd"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "u4", "i2", "f4", "f8"])
def test_tiff_of_any_number_and_codec(
    tmp_path: Path, noise: np.ndarray, compression: str | None, dtype: str
) -> None:
    if compression in ("packbits", "lzw", "zstd"):
        pytest.importorskip("imagecodecs", reason="such files cannot be written without it")
    path = tmp_path / "a.tif"
    byteorder: Any = ">" if dtype.startswith(">") else "<"
    tifffile.imwrite(path, noise.astype(dtype), compression=compression, byteorder=byteorder)
    found = read_image(path)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, noise)


def test_lzw_colour_keeps_its_channels(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)
    write_lzw(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), image)


def test_tiled_and_bilevel_tiff(tmp_path: Path, noise: np.ndarray) -> None:
    big = np.kron(noise, np.ones((8, 8), np.uint8))
    tifffile.imwrite(tmp_path / "a.tif", big, tile=(64, 64), compression="zlib")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), big)
    tifffile.imwrite(tmp_path / "b.tif", noise > 99)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), noise > 99)


def test_tiles_that_claim_far_more_than_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((33, 20), np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["TileWidth"].overwrite(2**31)
    with pytest.raises(FlowsegError, match="its tiles are far larger than it is"):
        read_image(path)


def test_a_tiff_that_claims_too_much(tmp_path: Path, noise: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["ImageWidth"].overwrite(100_000)
        tiff.pages[0].tags["ImageLength"].overwrite(65_000)
    for read in (read_image, image_shape):
        with pytest.raises(FlowsegError, match="more than the"):
            read(path)


def test_a_tiff_that_unpacks_without_end(tmp_path: Path) -> None:
    """512 MB of zeros behind a strip of 64 x 64; tifffile alone unpacks them all."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), compression="zlib", rowsperstrip=64)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        end = tiff.filehandle.seek(0, os.SEEK_END) or tiff.filehandle.tell()
        tiff.filehandle.write(bomb)
        tiff.pages[0].tags["StripOffsets"].overwrite(end)
        tiff.pages[0].tags["StripByteCounts"].overwrite(len(bomb))
    with pytest.raises(FlowsegError, match="unpacks to more than its size") as error:
        read_image(path)
    one_line(error, path)


@pytest.mark.parametrize("pages", [2, 5])
def test_a_list_of_pages_that_goes_round(tmp_path: Path, noise: np.ndarray, pages: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([noise] * pages), photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[pages - 1].offset
    content = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from("<H", content, last)
    struct.pack_into("<I", content, last + 2 + 12 * tags, first)
    path.write_bytes(content)
    for read in (read_image, image_shape, list_images):
        with pytest.raises(FlowsegError, match="has no end") as error:
            read(path)
        one_line(error, path)


def test_a_large_strip_that_is_what_it_says(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 65_535, (600, 700), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, compression="zlib", rowsperstrip=600)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)


def test_a_codec_that_is_not_read(tmp_path: Path, noise: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise, compression="lzma")
    with pytest.raises(FlowsegError, match="TIFF compression 34925"):
        read_image(tmp_path / "a.tif")


def test_sizes_are_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((33, 20), np.uint8), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["SamplesPerPixel"]
    with path.open("r+b") as raw:
        raw.seek(tag.offset + 2)
        raw.write(struct.pack("<H", tifffile.DATATYPE.FLOAT))  # 1 is then 1.4e-45
    with pytest.raises(FlowsegError, match="one of its sizes is no number"):
        read_image(path)
    with (
        pytest.raises(FlowsegError, match="one of its sizes is no number"),
        list_images(path)[0].open_regions(),
    ):
        pass


def test_several_pages_are_refused(tmp_path: Path, noise: np.ndarray) -> None:
    for name, options in {"a.tif": {}, "b.tif": {"imagej": True}}.items():
        path = tmp_path / name
        tifffile.imwrite(path, np.stack([noise] * 3), photometric="minisblack", **options)
        with pytest.raises(FlowsegError, match="holds 3 images") as error:
            read_image(path)
        one_line(error, path)


def test_a_tiff_of_complex_numbers(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.complex64))
    with pytest.raises(FlowsegError, match="no numbers that can be read"):
        read_image(tmp_path / "a.tif")


def jpeg_tile(edge: int, claimed: int) -> bytes:
    image = np.full((edge, edge), 90, np.uint8)
    data = bytearray(load_cv2().imencode(".jpg", image)[1].tobytes())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", claimed, claimed)
    return bytes(data)


def jpeg_2000_tile(claimed: int, channels: int = 1) -> bytes:
    size = struct.pack(">HHIIIIIIII", 41, 0, claimed, claimed, 0, 0, claimed, claimed, 0, 0)
    return b"\xff\x4f\xff\x51" + size + struct.pack(">H", channels) + bytes(200)


def write(path: Path, tile: bytes, compression: str) -> Path:
    """A TIFF of tiles that are packed already.

    An older tifffile does not take them without imagecodecs, so it is told afterwards.
    """
    layout = {"shape": (64, 64), "dtype": np.uint8, "tile": (32, 32)}
    tifffile.imwrite(path, iter([tile] * 4), compression="zlib", photometric="minisblack", **layout)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite({"jpeg": 7, "jpeg2000": 34712}[compression])
    return path


def point_at(path: Path, step: int) -> Path:
    """Let all tiles begin `step` bytes after the one before."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[0].tags["TileOffsets"]
        tag.overwrite([tag.value[0] + step * i for i in range(len(tag.value))])
    return path


@pytest.mark.parametrize(
    ("tile", "compression"),
    [
        (jpeg_tile(32, 60_000), "jpeg"),
        (jpeg_2000_tile(2**31), "jpeg2000"),
        (jpeg_2000_tile(2048, 16_384), "jpeg2000"),
    ],
    ids=["jpeg", "jpeg 2000", "jpeg 2000 of many parts"],
)
def test_a_tile_that_claims_too_much(tmp_path: Path, tile: bytes, compression: str) -> None:
    (page,) = list_images(write(tmp_path / "a.tif", tile, compression))
    with pytest.raises(FlowsegError, match=r"a\.tif: .*a tile unpacks to more than its size"):
        page.read()
    with (
        page.open_regions() as read,
        pytest.raises(FlowsegError, match=r"a\.tif: .*a tile unpacks to more than its size"),
    ):
        read(slice(0, 9), slice(0, 9))


def test_a_header_that_all_tiles_share_counts() -> None:
    """Some microscopes keep one; tifffile puts it before each tile."""
    page = SimpleNamespace(chunks=(32, 32), compression=7, keyframe=SimpleNamespace())
    page.keyframe.jpegheader = None
    _tiff.check_segment(page, jpeg_tile(32, 32), Path("a.tif"))
    page.keyframe.jpegheader = jpeg_tile(32, 60_000)
    with pytest.raises(FlowsegError, match=r"a\.tif: .*a tile unpacks to more than its size"):
        _tiff.check_segment(page, jpeg_tile(32, 32), Path("a.tif"))


BOXED = struct.pack(">I4s16x", 8 + 16 + 250, b"uuid") + jpeg_2000_tile(16)[:250]
BOXED += struct.pack(">I4s", 0, b"jp2c") + jpeg_2000_tile(2**31)


@pytest.mark.parametrize(
    ("tile", "compression"),
    [
        (b"\xff\xd8" + bytes(100), "jpeg"),
        (b"\xff\xd8" + bytes(100), "jpeg2000"),
        (jpeg_2000_tile(16)[:40], "jpeg2000"),
        (BOXED, "jpeg2000"),  # a TIFF holds it bare; a box may hide another size
    ],
    ids=["jpeg", "jpeg 2000", "short", "boxed"],
)
def test_a_tile_without_a_header(tmp_path: Path, tile: bytes, compression: str) -> None:
    path = write(tmp_path / "a.tif", tile, compression)
    with pytest.raises(FlowsegError, match=r"a\.tif: is damaged: it has no JPEG"):
        read_image(path)


def test_tiles_that_are_one_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imagecodecs", reason="such tiles cannot be read without it")
    path = point_at(write(tmp_path / "a.tif", jpeg_tile(32, 32), "jpeg"), step=0)
    looks, look = [], _tiff.check_segment
    monkeypatch.setattr(_tiff, "check_segment", lambda *some: (looks.append(some), look(*some)))
    assert read_image(path).shape == (64, 64)
    assert len(looks) == 1


def test_tiles_that_lie_one_over_the_other(tmp_path: Path) -> None:
    """Each a byte further on: as many walks over the same bytes as there are tiles."""
    path = point_at(write(tmp_path / "a.tif", b"\xff\xd8" + b"\xff" * 10_000, "jpeg"), step=1)
    with tifffile.TiffFile(path) as tiff:
        end = tiff.pages[0].dataoffsets[-1] + 10_002
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(FlowsegError, match=r"a\.tif: .*lie one over the other"):
        read_image(path)


def test_a_header_of_very_many_markers(tmp_path: Path) -> None:
    tile = jpeg_tile(32, 32)
    path = write(tmp_path / "a.tif", tile[:2] + b"\xff" * 10_000 + tile[2:], "jpeg")
    with pytest.raises(FlowsegError, match=r"a\.tif: is damaged: it has no JPEG header"):
        read_image(path)


def test_bits_in_reverse(tmp_path: Path) -> None:
    """They would be checked in one order and unpacked in the other."""
    path = tmp_path / "a.tif"
    image = np.zeros((64, 64), np.uint8)
    tifffile.imwrite(path, image, compression="zlib", extratags=[(65_000, 3, 1, 2, True)])
    data, fill_order = path.read_bytes(), struct.pack("<HHI", 266, 3, 1)
    path.write_bytes(data.replace(struct.pack("<HHI", 65_000, 3, 1), fill_order))
    with pytest.raises(FlowsegError, match=r"a\.tif: is packed in a way .* that is not read"):
        read_image(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_honest_tiles_are_read(tmp_path: Path, compression: str) -> None:
    pytest.importorskip("imagecodecs", reason="such tiles cannot be read without it")
    image = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression=compression)
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - image).max() < 12
