"""Zarr arrays from strangers: what is no image, or asks for more than it holds, is refused."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.pages import list_pages

pytest.importorskip("zarr", reason="zarr is not installed")

META = {
    **{"shape": [4, 6], "chunks": [4, 6], "dtype": "|u1", "fill_value": 0, "order": "C"},
    **{"filters": None, "compressor": None, "zarr_format": 2},
}


class Shell:
    """What a malicious file would hold."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def store(folder: Path, chunk: bytes = bytes(24), **changes: Any) -> Path:
    path = folder / "a.zarr"
    path.mkdir()
    (path / ".zarray").write_text(json.dumps(META | changes))
    (path / "0.0").write_bytes(chunk)
    return path


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_nothing_in_a_chunk_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    codec = {"id": "pickle", "protocol": 4}
    path = store(
        tmp_path, pickle.dumps(Shell()), **{place: [codec] if place == "filters" else codec}
    )
    with pytest.raises(FlowsegError, match=r"a\.zarr"):
        list_pages(path)[0].read()
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"shape": [10**6, 10**7], "chunks": [10, 10]}, "too many to read"),
        ({"shape": [10**5, 10**5], "chunks": [10**5, 10**5]}, "too large to read"),
        ({"shape": [24], "chunks": [24]}, "not one flat image"),
        ({"shape": [2, 2, 6], "chunks": [2, 2, 6]}, "not one flat image"),
        ({"shape": [0, 6], "chunks": [1, 6]}, "not one flat image"),
        ({"dtype": "<c8", "fill_value": None}, "no numbers"),
        ({"dtype": "x"}, "cannot be read"),
        ({"shape": "x"}, "cannot be read"),
        ({"compressor": {"id": "fixedscaleoffset", "offset": 0, "scale": 1, "dtype": "<f8"}}, "r"),
    ],
)
def test_what_is_no_image(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = store(tmp_path, **changes)
    with pytest.raises(FlowsegError, match=rf"a\.zarr: .*{problem}"):
        list_pages(path)


def test_a_large_array_is_read_by_region_only(tmp_path: Path) -> None:
    (page,) = list_pages(store(tmp_path, shape=[10**5, 10**5]))
    with page.regions() as read:
        assert np.array_equal(read(slice(0, 4), slice(0, 6)), np.zeros((4, 6)))
    with pytest.raises(FlowsegError, match="claims 100000 x 100000 pixels"):
        page.read()


def test_a_damaged_chunk(tmp_path: Path) -> None:
    (page,) = list_pages(store(tmp_path, b"x" * 9, compressor={"id": "zlib", "level": 1}))
    with pytest.raises(FlowsegError, match=r"a\.zarr: is damaged"):
        page.read()
