"""Cellpose's `_seg.npy` is read, and nothing in it is executed."""

from __future__ import annotations

import contextlib
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.formats.seg_npy import read_seg
from flowseg.io import npy_dictionary

LABELS = np.zeros((12, 16), np.int32)
LABELS[1:4, 2:7] = 1
LABELS[5:9, 2:7] = 2
LABELS[5:9, 7:12] = 70000


def save(path: Path, *, protocol: int = 4, **entries: Any) -> Path:
    content = np.empty((), object)
    content[()] = {"masks": LABELS, **entries}
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(content, file, protocol=protocol)
    return path


class Shell:
    """A malicious entry."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_cellpose_saves_is_read(tmp_path: Path, protocol: int) -> None:
    entries = {
        "masks": np.asfortranarray(LABELS),
        "filename": tmp_path,
        "colors": [np.float32(1), LABELS.astype(np.float64)],
        "flows": [[LABELS > 0], {1, 2}, np.array("a text"), None],
    }
    path = save(tmp_path / "x_seg.npy", protocol=protocol, **entries)
    assert np.array_equal(read_seg(path), LABELS)
    # as numpy 1 and 2 name it
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        content = path.read_bytes()
        if protocol < 4:  # a name ends with its line there, and has no length
            path.write_bytes(content.replace(old, new))
            assert np.array_equal(read_seg(path), LABELS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nothing_in_a_seg_npy_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(Path("x_seg.npy"), protocol=protocol, other=Shell())
    with pytest.raises(FlowsegError, match=r"x_seg\.npy: names posix\.mkdir, .* not executed"):
        read_seg(path)
    assert not Path("executed").exists()
    np.load(path, allow_pickle=True)  # which does execute it
    assert Path("executed").exists()


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "builtins getattr", "os system", "numpy load", "numpy.core x"],
)
def test_only_what_is_listed_may_be_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "x_seg.npy")
    start = path.read_bytes().index(b"\n") + 1
    module, function = name.split()
    attack = f"c{module}\n{function}\n(Vraise SystemExit\ntR.".encode()
    path.write_bytes(path.read_bytes()[:start] + attack)
    with pytest.raises(FlowsegError, match=f"names {module}.{function}"):
        read_seg(path)


def test_seg_npy_counted_from_minus_one(tmp_path: Path) -> None:
    path = save(tmp_path / "x_seg.npy", masks=LABELS[None].astype(np.int64) - 1)
    assert np.array_equal(read_seg(path), LABELS)


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        ((LABELS / 2).astype(np.float32), "holds masks of the type float32, not whole numbers"),
        (np.zeros((2, 4, 4), np.uint8), "a label image is a 2-D array"),
        ([1, 2], "holds no 'masks'"),
        (np.array(["a"]), "holds masks of the type <U1"),
    ],
)
def test_seg_npy_without_flat_labels(tmp_path: Path, masks: Any, match: str) -> None:
    with pytest.raises(FlowsegError, match=rf"x_seg.npy: {match}"):
        read_seg(save(tmp_path / "x_seg.npy", masks=masks))


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(b"Nr" + (2**30).to_bytes(4, "little"), id="the number of a value"),
        pytest.param(b"Np1073741824\n", id="the number of a value, as a text"),
        pytest.param(b"\x96" + (2**40).to_bytes(8, "little"), id="the length of a bytearray"),
    ],
)
def test_a_seg_npy_that_asks_for_memory(tmp_path: Path, claim: bytes) -> None:
    """Five bytes that number a value 2**30 would make the unpickler take 16 GB for its table."""
    path = save(tmp_path / "x_seg.npy")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\n") + 1] + b"\x80\x05" + claim + b".")
    tracemalloc.start()
    try:
        with pytest.raises(FlowsegError, match=r"x_seg.npy: "):
            read_seg(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_seg_npy_larger_than_any_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy_dictionary, "LARGEST", 100)
    with pytest.raises(FlowsegError, match="is larger than"):
        read_seg(save(tmp_path / "x_seg.npy"))


def test_damaged_seg_npy(tmp_path: Path, rng: np.random.Generator) -> None:
    path = save(tmp_path / "x_seg.npy")
    whole = path.read_bytes()
    np.save(path, LABELS)
    with pytest.raises(FlowsegError, match="holds a plain array"):
        read_seg(path)
    for length in (0, 5, 70, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FlowsegError, match=r"x_seg.npy: "):
            read_seg(path)
    for _ in range(300):  # whatever the bytes say, labels or one clear line
        bytes_ = bytearray(whole)
        for at in rng.integers(80, 300, 3):
            bytes_[at] = rng.integers(256)
        path.write_bytes(bytes_)
        with contextlib.suppress(FlowsegError):
            assert read_seg(path).dtype == np.int32
