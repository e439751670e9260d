"""The images of a file: all pages, any region, in any packing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.io.image_source import ImageSource, list_images
from flowseg.io.images import write_image

KINDS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "big endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "tiles": {"tile": (32, 16), "compression": "zlib", "predictor": True},
    "plain tiles": {"tile": (16, 48)},
    "bigtiff": {"bigtiff": True, "tile": (64, 64), "compression": "zlib"},
    "ome": {"ome": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(70, 90), (70, 90, 3)])
def test_any_region_is_that_of_the_whole(
    tmp_path: Path, kind: str, dtype: type, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    if dtype is np.float32 and KINDS[kind].get("predictor"):
        pytest.importorskip("imagecodecs", reason="such files cannot be written without it")
    image = rng.integers(0, 250, shape).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb" if len(shape) == 3 else None, **KINDS[kind])
    (source,) = list_images(path)
    assert (source.image_id, source.shape) == ("a", (70, 90))
    assert np.array_equal(source.read(), image)
    with source.open_regions() as read:
        for rows in (slice(0, 70), slice(3, 4), slice(31, 66)):
            for columns in (slice(0, 90), slice(15, 17), slice(40, 90)):
                part = read(rows, columns)
                assert part.dtype == dtype
                assert np.array_equal(
                    part.reshape(image[rows, columns].shape), image[rows, columns]
                )


def test_each_page_of_a_tiff_is_an_image(tmp_path: Path, rng: np.random.Generator) -> None:
    stack = rng.integers(0, 255, (3, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack", compression="zlib")
    sources = list_images(tmp_path / "s.tif")
    assert [source.image_id for source in sources] == ["s_0000", "s_0001", "s_0002"]
    for source, image in zip(sources, stack, strict=True):
        assert np.array_equal(source.read(), image)
        with source.open_regions() as read:
            assert np.array_equal(read(slice(5, 9), slice(1, 3))[..., 0], image[5:9, 1:3])


def test_the_lower_levels_of_a_pyramid_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "p.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((64, 64), np.uint8), subifds=1)
        writer.write(np.zeros((32, 32), np.uint8), subfiletype=1)
    assert [source.shape for source in list_images(path)] == [(64, 64)]


def test_other_files_are_one_image(tmp_path: Path) -> None:
    image = np.arange(200, dtype=np.uint8).reshape(10, 20)
    write_image(tmp_path / "b.png", image)
    assert list_images(tmp_path / "b.png") == [
        ImageSource(path=tmp_path / "b.png", index=0, image_id="b", shape=(10, 20), alone=True)
    ]
    with list_images(tmp_path / "b.png")[0].open_regions() as read:
        assert np.array_equal(read(slice(2, 4), slice(5, 9)), image[2:4, 5:9])


def test_a_damaged_tile_is_named_with_its_file_and_other_errors_pass(tmp_path: Path) -> None:
    path = tmp_path / "d.tif"
    image = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    tifffile.imwrite(path, image, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[start : start + 200] = bytes(200)
    path.write_bytes(content)
    (source,) = list_images(path)
    with source.open_regions() as read:
        assert read(slice(0, 32), slice(0, 32)).shape[:2] == (32, 32)
        with pytest.raises(FlowsegError, match=r"d\.tif: is damaged"):
            read(slice(40, 50), slice(40, 50))
    with pytest.raises(ZeroDivisionError), source.open_regions():
        _ = 1 / 0
    path.write_bytes(content[:100])
    with pytest.raises(FlowsegError, match=r"d\.tif"):
        list_images(path)


def test_a_region_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "d.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8))
    (source,) = list_images(path)
    with source.open_regions() as read:
        os.truncate(path, path.stat().st_size - 100)
        assert read(slice(0, 62), slice(0, 64)).shape == (62, 64)
        with pytest.raises(FlowsegError, match=r"d\.tif: is cut off"):
            read(slice(60, 64), slice(0, 5))


def test_zarr_arrays_are_images(tmp_path: Path, rng: np.random.Generator) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    image = rng.integers(0, 255, (50, 60), np.uint8)
    path = tmp_path / "z.zarr"
    array = zarr.open(str(path), mode="w", shape=image.shape, chunks=(16, 16), dtype="u1")
    array[:] = image
    (source,) = list_images(path)
    assert (source.image_id, source.shape) == ("z", (50, 60))
    assert np.array_equal(source.read(), image)
    with source.open_regions() as read:
        assert np.array_equal(read(slice(7, 30), slice(3, 9)), image[7:30, 3:9])
