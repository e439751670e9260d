"""Zarr arrays from strangers: what is no image, or asks for more than it holds, is refused."""

from __future__ import annotations

import base64
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.io.image_source import list_images

pytest.importorskip("zarr", reason="zarr is not installed")

META = {
    **{"shape": [4, 6], "chunks": [4, 6], "dtype": "|u1", "fill_value": 0, "order": "C"},
    **{"filters": None, "compressor": None, "zarr_format": 2},
}


class Shell:
    """What a malicious file would hold."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def store(folder: Path, chunk: bytes = bytes(24), name: str = "a.zarr", **changes: Any) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / ".zarray").write_text(json.dumps(META | changes))
    (path / "0.0").write_bytes(chunk)
    return path


REFUSED = r"a\.zarr: is packed in a way that is not read: "


@pytest.mark.parametrize("place", ["compressor", "filters", "fill value"])
def test_nothing_in_an_array_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    packed, codec = pickle.dumps(Shell()), {"id": "pickle", "protocol": 4}
    changes: dict[str, Any] = {"compressor": codec}
    if place != "compressor":
        changes = {"filters": [codec]}
    if place == "fill value":  # some versions of zarr unpack it when the array is opened
        changes |= {"dtype": [["x", "|O"]], "fill_value": base64.b64encode(packed).decode()}
    path = store(tmp_path, packed, **changes)
    with pytest.raises(FlowsegError, match=REFUSED + "pickle"):
        list_images(path)[0].read()
    assert not Path("executed").exists()


ADLER = {"id": "adler32"}  # does no harm, and is read by every version of zarr


@pytest.mark.parametrize("place", [{"compressor": ADLER}, {"filters": [ADLER]}])
@pytest.mark.parametrize("name", ["a.zarr", "a.zarr/0"])
def test_a_codec_that_is_not_read(tmp_path: Path, place: dict[str, Any], name: str) -> None:
    store(tmp_path, bytes(28), name, **place, codecs=[])
    with pytest.raises(FlowsegError, match=REFUSED + "adler32"):
        list_images(tmp_path / "a.zarr")


def test_a_codec_within_a_shard(tmp_path: Path) -> None:
    path = store(tmp_path)
    (path / ".zarray").unlink()
    inner = {"codecs": ["bytes", {"name": "numcodecs.adler32"}], "index_codecs": ["bytes"]}
    shard = {"name": "sharding_indexed", "configuration": inner}
    (path / "zarr.json").write_text(json.dumps({"node_type": "array", "codecs": [shard]}))
    with pytest.raises(FlowsegError, match=REFUSED + "adler32"):
        list_images(path)


def test_a_groups_copy_of_the_metadata_is_not_used(tmp_path: Path) -> None:
    """It may name a codec that the array's own do not."""
    store(tmp_path, bytes(range(24)), "a.zarr/0")
    group = tmp_path / "a.zarr"
    copy = {".zgroup": {"zarr_format": 2}, "0/.zarray": META | {"filters": [ADLER]}}
    (group / ".zgroup").write_text(json.dumps(copy[".zgroup"]))
    (group / ".zmetadata").write_text(json.dumps({"zarr_consolidated_format": 1, "metadata": copy}))
    (source,) = list_images(group)
    assert np.array_equal(source.read().ravel(), np.arange(24))


@pytest.mark.parametrize("name", ["a.zarr", "a.zarr/0"])
def test_metadata_of_both_versions_are_checked(tmp_path: Path, name: str) -> None:
    """Each version of zarr has its own opinion which of them counts."""
    path = store(tmp_path, name=name)
    (path / "zarr.json").write_text(json.dumps({"node_type": "array", "codecs": [ADLER]}))
    with pytest.raises(FlowsegError, match=REFUSED + "adler32"):
        list_images(tmp_path / "a.zarr")


def test_an_array_of_version_3_in_a_group(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("0", shape=(4, 6), chunks=(2, 3), shards=(4, 6), dtype="u1")[:] = image
    (source,) = list_images(tmp_path / "a.zarr")
    assert np.array_equal(source.read(), image)


def test_a_folder_without_an_array(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(FlowsegError, match=r"a\.zarr: holds no Zarr array"):
        list_images(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"shape": [10**6, 10**7], "chunks": [10, 10]}, "too many to read"),
        ({"shape": [10**5, 10**5], "chunks": [10**5, 10**5]}, "which cannot be read"),
        ({"chunks": [0, 5]}, "which cannot be read"),
        ({"chunks": [3]}, ""),
        ({"shape": [24], "chunks": [24]}, "not one flat image"),
        ({"shape": [2, 2, 6], "chunks": [2, 2, 6]}, "not one flat image"),
        ({"shape": [0, 6], "chunks": [1, 6]}, "not one flat image"),
        ({"dtype": "<c8", "fill_value": None}, "no numbers"),
        ({"dtype": "x"}, "is damaged"),
        ({"shape": "x"}, "is damaged"),
    ],
)
def test_what_is_no_image(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = store(tmp_path, **changes)
    with pytest.raises(FlowsegError, match=rf"a\.zarr: .*{problem}"):
        list_images(path)


def test_a_large_array_is_read_by_region_only(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"shape": [10**5, 10**5], "chunks": [100, 100]}
    (source,) = list_images(store(tmp_path, bytes(10**4), **sizes))
    with source.open_regions() as read:
        assert np.array_equal(read(slice(0, 4), slice(0, 6)), np.zeros((4, 6)))
    with pytest.raises(FlowsegError, match="claims 100000 x 100000 pixels"):
        source.read()


def test_a_damaged_chunk(tmp_path: Path) -> None:
    (source,) = list_images(store(tmp_path, b"x" * 9, compressor={"id": "zlib", "level": 1}))
    with pytest.raises(FlowsegError, match=r"a\.zarr: is damaged"):
        source.read()
