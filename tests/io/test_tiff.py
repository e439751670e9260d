"""TIFF files: pages of any packing, and those whose headers or tiles claim what is not so."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.io.image_source import list_images
from flowseg.io.images import image_shape, read_image
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


@pytest.mark.parametrize("pages", [2, 5])
def test_pages_that_go_round_are_refused(tmp_path: Path, noise: np.ndarray, pages: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([noise] * pages), photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[pages - 1].offset
    content = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from("<H", content, last)
    struct.pack_into("<I", content, last + 2 + 12 * tags, first)
    path.write_bytes(content)
    for read in (read_image, image_shape, list_images):
        with pytest.raises(FlowsegError, match="circle"):
            read(path)


def test_a_large_strip_that_is_what_it_says(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 65_535, (600, 700), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image, compression="zlib", rowsperstrip=600)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), image)


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


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_lossy_tiles_are_read(tmp_path: Path, compression: str) -> None:
    pytest.importorskip("imagecodecs", reason="such tiles cannot be read without it")
    image = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression=compression)
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - image).max() < 12


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_were_written_last_are_told(tmp_path: Path, channels: int) -> None:
    """As in https://github.com/MouseLand/cellpose/issues/148 and 1284."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((60, 50, channels), np.uint16), photometric="minisblack")
    with pytest.raises(FlowsegError, match=f"{channels} channels last.* one image of 60 x 50"):
        list_images(path)
    # A narrow stack of few pages, and one of whole images, are what they seem.
    tifffile.imwrite(path, np.zeros((3, 50, 4), np.uint16), photometric="minisblack")
    assert [image.shape for image in list_images(path)] == [(50, 4)] * 3
