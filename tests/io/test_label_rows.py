"""Strips of labels become one file, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.io.image_source import list_images
from flowseg.io.images import read_labels
from flowseg.io.label_rows import write_labels_by_rows


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1300, 700), (5, 3), (512, 512)])
def test_labels_come_in_strips_and_lie_in_tiles(
    tmp_path: Path, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    labels = rng.integers(0, 90_000, shape).astype(np.int32)
    path = tmp_path / "l.tif"
    write_labels_by_rows(path, (labels[top : top + 300] for top in range(0, shape[0], 300)), shape)
    assert np.array_equal(read_labels(path), labels)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        assert tiff.pages[0].is_tiled
        assert tiff.pages[0].dtype == np.uint32
    content = path.read_bytes()
    write_labels_by_rows(path, iter([labels]), shape)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["l.tif", "l.zarr"])
def test_nothing_is_left_where_a_strip_fails(tmp_path: Path, name: str) -> None:
    if name == "l.zarr":
        pytest.importorskip("zarr", reason="zarr is not installed")

    def strips():
        yield np.zeros((4, 9), np.int32)
        raise FlowsegError("the slide is torn")

    with pytest.raises(FlowsegError, match="torn"):
        write_labels_by_rows(tmp_path / name, strips(), (8, 9))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1300, 700), (5, 3)])
def test_labels_lie_in_a_zarr_array(
    tmp_path: Path, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    labels = rng.integers(0, 90_000, shape).astype(np.int32)
    path = tmp_path / "l.zarr"
    for number in (1, 2):  # the second takes the place of the first
        expected = labels * number
        strips = (expected[top : top + 300] for top in range(0, shape[0], 300))
        write_labels_by_rows(path, strips, shape)
        found = zarr.open(str(path), mode="r")
        assert found.dtype == np.uint32
        assert found.chunks == (512, 512)
        assert np.array_equal(found[:], expected)
    assert np.array_equal(list_images(path)[0].read(), expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["l.zarr"]
