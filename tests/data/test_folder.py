"""Images beside label images, and Cellpose's `_seg.npy` read without being executed."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.detect import detect_layout, read_records
from flowseg.data.folder import read_folder
from flowseg.errors import FlowsegError
from flowseg.formats.seg_npy import read_seg
from flowseg.io.images import write_image, write_labels
from flowseg.io.paths import find_images
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius

LABELS = np.zeros((12, 16), np.int32)
LABELS[1:4, 2:7] = 1
LABELS[5:9, 2:7] = 2
LABELS[5:9, 7:12] = 70000
GREY = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 300


def saved(folder: Path, name: str = "one", **entries: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}_seg.npy", {"masks": LABELS, **entries}, allow_pickle=True)
    return folder / f"{name}_seg.npy"


def test_labels_beside_images_of_any_bit_depth(tmp_path: Path) -> None:
    write_image(tmp_path / "b.tif", GREY)
    write_labels(tmp_path / "b_masks.tif", LABELS)
    cv2.imwrite(str(tmp_path / "a.jpg"), (GREY // 256).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "a_cp_masks.png"), np.minimum(LABELS, 3).astype(np.uint16))
    tifffile.imwrite(tmp_path / "c.TIF", GREY.astype(np.float32) / 7)
    saved(tmp_path, "c")
    records = read_folder(tmp_path)
    assert [record.image_id for record in records] == ["a", "b", "c"]
    assert {record.cell_type for record in records} == {"cell"}
    for record in records:
        assert record.image().shape == LABELS.shape
        assert np.array_equal(masks_to_labels(record.masks()), np.minimum(LABELS, 3))
    assert records[1].image().max() == GREY.max()
    # and predict takes the images only
    assert [path.name for path in find_images(tmp_path)] == ["a.jpg", "b.tif", "c.TIF"]


def test_images_and_masks_in_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name, labels in (("x", "x.png"), ("y", "y_masks.png")):
        write_image(tmp_path / "images" / f"{name}.png", GREY)
        write_image(tmp_path / "masks" / labels, np.minimum(LABELS, 3).astype(np.uint8))
    records = read_records(tmp_path, ("hela",))
    assert [(r.image_id, r.cell_type, len(r.masks())) for r in records] == [
        ("x", "hela", 3),
        ("y", "hela", 3),
    ]


def test_images_without_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", GREY)
    write_labels(tmp_path / "a_masks.tif", LABELS)
    with caplog.at_level(logging.INFO):
        assert [record.image_id for record in read_folder(tmp_path)] == ["a"]
    assert "1 images without labels are passed over: b.png" in caplog.text


def test_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(FlowsegError, match=match):
            read_folder(tmp_path)

    fails("holds no image; name a folder of NAME.tif beside NAME_masks.tif")
    write_image(tmp_path / "a.png", GREY)
    fails("holds neither a train.csv nor images with labels")
    write_labels(tmp_path / "a_masks.tif", LABELS)
    saved(tmp_path, "a")
    fails("a.png: has two label files: a_masks.tif and a_seg.npy")
    (tmp_path / "a_seg.npy").unlink()
    write_labels(tmp_path / "b_masks.tif", LABELS)
    fails("b_masks.tif: holds labels, but there is no image for it")
    (tmp_path / "b_masks.tif").unlink()
    write_labels(tmp_path / "a_masks.tif", LABELS[:-1])
    fails(r"a.png: is 16 x 12 .* a_masks.tif says 16 x 11")
    dots = np.zeros_like(LABELS)
    dots[::3, ::3] = 255
    write_labels(tmp_path / "a_masks.tif", dots)
    fails("a_masks.tif: gives all its 24 pieces the one number 255")
    with pytest.raises(FlowsegError, match="is no folder"):
        read_folder(tmp_path / "none")


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    write_synthetic_sartorius(tmp_path / "c", 3, 1, 1, (64, 64))
    write_synthetic_livecell(tmp_path / "l", 2, 1, 2, (64, 64))
    write_image(tmp_path / "a.png", GREY)
    write_labels(tmp_path / "a_masks.tif", LABELS)
    found = {name: detect_layout(tmp_path / name) for name in ("c", "l", ".", "none")}
    assert found == {"c": "competition", "l": "livecell", ".": "folder", "none": "competition"}
    assert len(read_records(tmp_path / "c")) == len(read_records(tmp_path / "l")) == 3
    with pytest.raises(FlowsegError, match="images of one cell type, not of astro, cort"):
        read_records(tmp_path, ("astro", "cort"))


class Shell:
    """What a malicious file would hold."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nothing_in_a_seg_npy_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    content = np.empty((), object)
    content[()] = {
        "masks": np.asfortranarray(LABELS),
        "other": Shell(),
        "filename": tmp_path,
        "colors": [np.float32(1), LABELS.astype(np.float64)],
    }
    with Path("x_seg.npy").open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(content, file, protocol=protocol)
    assert np.array_equal(read_seg("x_seg.npy"), LABELS)
    assert not Path("executed").exists()
    np.load("x_seg.npy", allow_pickle=True)  # which does execute it
    assert Path("executed").exists()


def test_seg_npy_counted_from_minus_one(tmp_path: Path) -> None:
    path = saved(tmp_path, masks=LABELS[None].astype(np.int64) - 1)
    assert np.array_equal(read_seg(path), LABELS)


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        (LABELS.astype(np.float32), "holds masks of the type 'f4', not whole numbers"),
        (np.zeros((2, 4, 4), np.uint8), "a label image is a 2-D array"),
        ([1, 2], "holds no 'masks'"),
        (np.array(["a"]), "holds masks of the type 'U1'"),
        (Shell(), "holds no 'masks'"),
    ],
)
def test_seg_npy_without_flat_labels(tmp_path: Path, masks: Any, match: str) -> None:
    with pytest.raises(FlowsegError, match=rf"one_seg.npy: {match}"):
        read_seg(saved(tmp_path, masks=masks))


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(b"Nr" + (2**30).to_bytes(4, "little"), id="the number of a value"),
        pytest.param(b"\x96" + (2**40).to_bytes(8, "little"), id="the length of a bytearray"),
    ],
)
def test_a_seg_npy_that_asks_for_memory(tmp_path: Path, claim: bytes) -> None:
    """Five bytes that number a value 2**30 make C's unpickler take 16 GB for its table."""
    path = saved(tmp_path)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    path.write_bytes(whole[:start] + b"\x80\x05" + claim + b".")
    tracemalloc.start()
    try:
        with pytest.raises(FlowsegError, match=r"one_seg.npy: "):
            read_seg(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_damaged_seg_npy(tmp_path: Path, rng: np.random.Generator) -> None:
    path = saved(tmp_path)
    whole = path.read_bytes()
    np.save(path, LABELS)
    with pytest.raises(FlowsegError, match="holds a plain array"):
        read_seg(path)
    for length in (0, 5, 70, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FlowsegError, match=r"one_seg.npy: "):
            read_seg(path)
    for _ in range(300):  # whatever the bytes say, labels or one clear line
        bytes_ = bytearray(whole)
        for at in rng.integers(80, 300, 3):
            bytes_[at] = rng.integers(256)
        path.write_bytes(bytes_)
        with contextlib.suppress(FlowsegError):
            assert read_seg(path).dtype == np.int32
