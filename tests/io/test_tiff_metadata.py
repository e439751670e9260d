"""What a file says about its numbers is used: interpretation, channels, levels, pixel size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.formats.imagej import write_imagej_labels
from flowseg.io.image_source import ImageSource, list_images, read_pixel_size
from flowseg.io.images import read_image, read_labels, write_labels
from flowseg.io.physical import PixelSize


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (24, 32), dtype=np.uint8)


@pytest.fixture
def other(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 255, (24, 32), dtype=np.uint8)


def read(source: ImageSource) -> np.ndarray:
    """The pixels, which are the same by region."""
    pixels = source.read()
    with source.open_regions() as region:
        part = region(slice(3, 9), slice(2, 30))
    assert np.array_equal(part.reshape(pixels[3:9, 2:30].shape), pixels[3:9, 2:30])
    return pixels


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
def test_white_is_zero(tmp_path: Path, image: np.ndarray, dtype: str) -> None:
    stored = image.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite", compression="zlib")
    (source,) = list_images(tmp_path / "a.tif")
    found = read(source).astype(float)
    expected = -stored.astype(float)
    np.testing.assert_array_equal(found - found.max(), expected - expected.max())
    assert read_image(tmp_path / "a.tif").dtype == dtype


@pytest.mark.parametrize("wide", [False, True])
def test_palette(tmp_path: Path, image: np.ndarray, rng: np.random.Generator, wide: bool) -> None:
    colours = rng.integers(0, 256, (3, 256)).astype(np.uint16)
    colormap = colours * (257 if not wide else 251)
    tifffile.imwrite(tmp_path / "a.tif", image, colormap=colormap, photometric="palette")
    (source,) = list_images(tmp_path / "a.tif")
    found = read(source)
    assert found.dtype == (np.uint16 if wide else np.uint8)
    np.testing.assert_array_equal(found, (colormap if wide else colours).T[image])
    assert np.array_equal(read_labels(tmp_path / "a.tif"), image)  # labels are the indices


def test_colours_that_are_not_read(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (24, 32, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="separated")
    with pytest.raises(FlowsegError, match="save it as grey or RGB"):
        read_image(tmp_path / "a.tif")


def test_lower_levels_thumbnails_and_masks_are_no_images(tmp_path: Path, image: np.ndarray) -> None:
    with tifffile.TiffWriter(tmp_path / "marked.tif") as tiff:
        tiff.write(image, metadata=None)
        tiff.write(image[::3, ::3], subfiletype=1, metadata=None)
        tiff.write(image > 9, subfiletype=4, metadata=None)
    with tifffile.TiffWriter(tmp_path / "unmarked.tif") as tiff:
        for step in (1, 2, 4):
            tiff.write(image[::step, ::step], metadata=None)
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        about = "Aperio Image Library v11.2.1 \r\n32x24 |AppMag = 20|MPP = 0.5"
        tiff.write(image, tile=(16, 16), description=about, metadata=None)
        tiff.write(image[::2, ::3], description=about, metadata=None)
        tiff.write(image[::4, ::4], tile=(16, 16), description=about, metadata=None)
        tiff.write(image[:9], description=f"{about} label", metadata=None)
    for name in ("marked.tif", "unmarked.tif", "a.svs"):
        (source,) = list_images(tmp_path / name)
        assert np.array_equal(read(source), image)
    assert list_images(tmp_path / "a.svs")[0].pixel_size == (0.5, 0.5)
    tifffile.imwrite(tmp_path / "only.tif", image, subfiletype=1)
    assert np.array_equal(read_image(tmp_path / "only.tif"), image)


NAMES: dict[str, dict[str, Any]] = {
    "ome": {"ome": True, "metadata": {"axes": "TCYX", "Channel": {"Name": ["Phase", "GFP"]}}},
    "imagej": {"imagej": True, "metadata": {"axes": "TCYX", "Labels": 2 * ["Phase", "GFP"]}},
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("channel", ["0", "phase", "1", "GFP"])
def test_one_channel_of_a_stack(
    tmp_path: Path, image: np.ndarray, other: np.ndarray, kind: str, channel: str
) -> None:
    stack = np.stack([np.stack([image, other]), np.stack([image // 2, other // 2])])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", **NAMES[kind])
    first, second = list_images(tmp_path / "a.tif", channel)
    expected = image if channel in ("0", "phase") else other
    assert (first.image_id, second.image_id) == ("a_0000", "a_0001")
    assert np.array_equal(read(first), expected)
    assert np.array_equal(read(second), expected // 2)
    with pytest.raises(FlowsegError, match=r"no channel 'DAPI': it has 2 \(Phase, GFP\)"):
        list_images(tmp_path / "a.tif", "DAPI")


def test_channels_are_said_where_none_is_picked(
    tmp_path: Path, image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = {"axes": "CYX"}
    tifffile.imwrite(tmp_path / "a.tif", np.stack([image] * 2), imagej=True, metadata=metadata)
    assert len(list_images(tmp_path / "a.tif")) == 2
    assert "each of its 2 channels is taken as an image; --channel picks one" in caplog.text


@pytest.mark.parametrize("layout", ["separate", "contig"])
def test_channels_of_each_pixel(
    tmp_path: Path, image: np.ndarray, other: np.ndarray, layout: str
) -> None:
    stack = np.stack([image, other], 0 if layout == "separate" else -1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", planarconfig=layout)
    with pytest.raises(FlowsegError, match="has 2 channels that are no colours"):
        list_images(path)[0].read()
    assert np.array_equal(list_images(path, 1)[0].read(), other)


def test_pages_without_axes_are_channels_if_asked(
    tmp_path: Path, image: np.ndarray, other: np.ndarray
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([image, other]), photometric="minisblack")
    (source,) = list_images(tmp_path / "a.tif", 1)
    assert source.image_id == "a"
    assert np.array_equal(read(source), other)


SIZES: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True, "metadata": {"unit": "micron"}, "resolution": (4, 2)},
    "nanometres": {"imagej": True, "metadata": {"unit": "nm"}, "resolution": (0.004, 0.002)},
    "centimetres": {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"},
    "ome": {
        "ome": True,
        "metadata": {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5},
    },
}


@pytest.mark.parametrize("kind", SIZES)
def test_pixel_size_goes_on_to_labels(tmp_path: Path, image: np.ndarray, kind: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **SIZES[kind])
    size = read_pixel_size(tmp_path / "a.tif")
    assert size == pytest.approx((0.5, 0.25))
    write_labels(tmp_path / "b.tif", image, size)
    write_imagej_labels(tmp_path / "c.tif", image, size)
    for name in ("b.tif", "c.tif"):
        assert read_pixel_size(tmp_path / name) == pytest.approx((0.5, 0.25))


def test_dots_an_inch_of_a_printer_are_no_pixel_size(tmp_path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, resolution=(300, 300), resolutionunit="INCH")
    assert read_pixel_size(tmp_path / "a.tif") is None


def _ome_zarr(store: Path, name: str, pixels: np.ndarray, axes: str) -> None:
    folder = store / name
    folder.mkdir(parents=True)
    shape = list(pixels.shape)
    array = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "|u1", "order": "C"}
    array |= {"compressor": None, "fill_value": 0, "filters": None}
    (folder / ".zarray").write_text(json.dumps(array))
    (folder / ".".join("0" * pixels.ndim)).write_bytes(pixels.tobytes())
    scale = [1] * (pixels.ndim - 2) + [0.5, 0.25]
    level = {"path": folder.name}
    transform = {"coordinateTransformations": [{"type": "scale", "scale": scale}]}
    names = [{"name": axis, "unit": "micrometer"} for axis in axes]
    about = {"multiscales": [{"axes": names, "datasets": [level | transform]}]}
    about["omero"] = {"channels": [{"label": "Phase"}, {"label": "GFP"}]}  # type: ignore[assignment]
    (folder.parent / ".zgroup").write_text('{"zarr_format": 2}')
    (folder.parent / ".zattrs").write_text(json.dumps(about))


def test_planes_and_channels_of_ome_zarr(
    tmp_path: Path, image: np.ndarray, other: np.ndarray
) -> None:
    pytest.importorskip("zarr")
    stack = np.stack([image, other])[None, :, None]
    _ome_zarr(tmp_path / "a.zarr", "s0", stack, "tczyx")
    first, second = list_images(tmp_path / "a.zarr")
    assert np.array_equal(read(first), image)
    assert np.array_equal(read(second), other)
    assert first.pixel_size == PixelSize(0.5, 0.25)
    (source,) = list_images(tmp_path / "a.zarr", "gfp")
    assert np.array_equal(read(source), other)


def test_each_image_of_bioformats2raw(tmp_path: Path, image: np.ndarray, other: np.ndarray) -> None:
    pytest.importorskip("zarr")
    for number, pixels in enumerate((image, other)):
        _ome_zarr(tmp_path / "a.zarr" / str(number), "0", pixels[None, None, None], "tczyx")
    first, second = list_images(tmp_path / "a.zarr")
    assert np.array_equal(read(first), image)
    assert np.array_equal(read(second), other)


def test_a_page_is_read_in_a_time_that_does_not_depend_on_their_number(tmp_path: Path) -> None:
    """By the bytes that are asked for, which no other program delays."""
    counts = []
    for pages in (10, 400):
        path = tmp_path / f"{pages}.tif"
        stack = np.zeros((pages, 8, 8), np.uint8)
        tifffile.imwrite(path, stack, photometric="minisblack", compression="zlib")
        last = list_images(path)[-1]
        asked = 0
        seek = tifffile.FileHandle.seek

        def counted(self: Any, *arguments: Any, seek: Any = seek) -> Any:
            nonlocal asked
            asked += 1
            return seek(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tifffile.FileHandle, "seek", counted)
            last.read()
        counts.append(asked)
    assert counts[0] == counts[1]
