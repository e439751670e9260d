"""Images beside label images, and Cellpose's `_seg.npy` read without being executed."""

from __future__ import annotations

import logging
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
from flowseg.io.images import read_image, write_image, write_labels
from flowseg.io.paths import find_images, find_inputs, find_labels, match_labels
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


@pytest.mark.parametrize("labels", ["masks/x.png", "labels/x_mask.png", "labels/x_label.tif"])
@pytest.mark.parametrize("images", ["images", "."])
def test_labels_in_a_folder_of_their_own(tmp_path: Path, labels: str, images: str) -> None:
    """As in https://github.com/MouseLand/cellpose/issues/1064."""
    for name in (images, Path(labels).parent):
        (tmp_path / name).mkdir(exist_ok=True)
    write_image(tmp_path / images / "x.png", GREY)
    write_image(tmp_path / images / "bare.png", GREY)
    write_labels(tmp_path / labels, np.minimum(LABELS, 3).astype(np.uint8))
    (record,) = read_records(tmp_path, ("hela",))
    assert (record.image_id, len(record.masks())) == ("x", 3)
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "masks").mkdir(exist_ok=True)
    with pytest.raises(FlowsegError, match="holds masks/ and labels/"):
        read_records(tmp_path, ("hela",))
    # Labels beside their images count; the folders may hold anything, such as predictions.
    if images == ".":
        write_labels(tmp_path / "bare_masks.tif", LABELS)
        assert [r.image_id for r in read_records(tmp_path, ("hela",))] == ["bare"]


@pytest.mark.parametrize("told", [False, True])
def test_frames_of_a_movie_are_a_group(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, told: bool
) -> None:
    names = ["m1_t000", "m1_t001", "m2_t000", "alone_t0"]
    for name in names:
        write_image(tmp_path / f"{name}.tif", GREY)
        write_labels(tmp_path / f"{name}_masks.tif", LABELS)
    if told:
        groups = ["day1", "", "day1", "day2"]
        rows = [f"{name},cell,{group}" for name, group in zip(names, groups, strict=True)]
        (tmp_path / "cell_types.csv").write_text("\n".join(["id,cell_type,group", *rows]) + "\n")
    with caplog.at_level(logging.INFO):
        found = {record.image_id: record.group for record in read_folder(tmp_path)}
    if told:
        assert found == {
            "m1_t000": "day1",
            "m1_t001": "m1",
            "m2_t000": "day1",
            "alone_t0": "day2",
        }
        assert "2 images are of 1 movies, pictures or wells, which folds keep" in caplog.text
    else:
        assert found == {
            "m1_t000": "m1",
            "m1_t001": "m1",
            "m2_t000": "m2_t000",
            "alone_t0": "alone_t0",
        }


def test_images_without_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", GREY)
    write_labels(tmp_path / "a_masks.tif", LABELS)
    with caplog.at_level(logging.INFO):
        assert [record.image_id for record in read_folder(tmp_path)] == ["a"]
    assert "1 images without labels are left out (b.png)" in caplog.text


def test_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(FlowsegError, match=match):
            read_folder(tmp_path)

    fails("holds no image; name a folder of NAME.tif beside NAME_masks.tif")
    write_image(tmp_path / "a.png", GREY)
    fails("holds neither a train.csv nor images with labels")
    write_labels(tmp_path / "a_masks.tif", LABELS)
    saved(tmp_path, "a")
    fails("a: has two label files: a_masks.tif and a_seg.npy")
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


def test_one_listing_of_label_files(tmp_path: Path) -> None:
    beside, apart, alone = (tmp_path / name for name in ("beside", "apart", "alone"))
    for folder in (beside, apart / "images", apart / "masks", alone):
        folder.mkdir(parents=True)
    for image in (beside / "a.jpg", beside / "b.png", beside / "c.png", apart / "images" / "a.tif"):
        image.touch()
    for labels in ("a_masks.tif", "b_seg.npy", "d_cp_masks.png", ".e_masks.tif"):
        (beside / labels).touch()
    for labels in ("a.tif", "f_masks.png", "notes.txt"):
        (apart / "masks" / labels).touch()
    (alone / "a.tif").touch()
    images, labels = match_labels(beside)
    assert {name: path.name for name, path in images.items()} == {
        **{"a": "a.jpg", "b": "b.png", "c": "c.png"}
    }
    assert find_labels(beside) == {
        "a": (beside / "a.jpg", beside / "a_masks.tif"),
        "b": (beside / "b.png", beside / "b_seg.npy"),
        "d": (None, beside / "d_cp_masks.png"),
    }
    assert find_labels(apart) == {
        "a": (apart / "images" / "a.tif", apart / "masks" / "a.tif"),
        "f": (None, apart / "masks" / "f_masks.png"),
    }
    assert find_labels(alone) == {"a": (None, alone / "a.tif")}


def test_inputs_are_folders_files_globs_and_zarr_stores(tmp_path: Path) -> None:
    for name in ("a.tif", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "t.zarr").mkdir()
    found = find_inputs(["*.zarr", "a.tif", str(tmp_path)], tmp_path)
    assert [path.name for path in found] == ["s.zarr", "t.zarr", "a.tif", "b.png"]
    assert find_images(tmp_path / "t.zarr") == [tmp_path / "t.zarr"]
    with pytest.raises(FlowsegError, match="neither here nor in the data folder"):
        find_inputs(["none"], tmp_path)


def test_brackets_are_letters_where_they_match_nothing_as_a_class(tmp_path: Path) -> None:
    for folder, name in (("Plate [1]", "a[x].png"), ("semi", "astros[cereb]_E10.png")):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / name, GREY)
        for pattern in (f"{folder}/*.png", f"{folder}/{name[:3]}*", f"{folder}/{name[:-4]}*"):
            assert [path.name for path in find_inputs([pattern], tmp_path)] == [name]
            assert [path.name for path in find_images(tmp_path / pattern)] == [name]
    write_image(tmp_path / "semi" / "ax.png", GREY)
    assert [path.name for path in find_images(tmp_path / "semi" / "a[x].png")] == ["ax.png"]


def test_links_to_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (path,) = find_images(tmp_path)
    with pytest.raises(FlowsegError, match=r"a\.png: is a link to .* not there: .*gone\.png"):
        read_image(path)
    write_labels(tmp_path / "a_masks.tif", LABELS)
    with pytest.raises(FlowsegError, match=r"a\.png: is a link"):
        read_folder(tmp_path)


def test_a_stack_beside_a_stack_of_labels_is_read_page_by_page(tmp_path: Path) -> None:
    frames = np.stack([GREY + k for k in range(3)])
    labels = np.stack([np.roll(LABELS, k, axis=0) for k in range(3)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "movie.tif", frames, photometric="minisblack")
    tifffile.imwrite(tmp_path / "movie_masks.tif", labels, photometric="minisblack")
    write_image(tmp_path / "still.tif", GREY)
    write_labels(tmp_path / "still_masks.tif", LABELS)
    records = read_records(tmp_path, ("hela",))
    assert [record.image_id for record in records] == [f"movie_{k:04d}" for k in range(3)] + [
        "still"
    ]
    assert len({record.group for record in records[:3]}) == 1
    assert records[3].group != records[0].group
    for record, frame, page in zip(records[:3], frames, labels, strict=True):
        np.testing.assert_array_equal(record.image(), frame)
        assert np.array_equal(masks_to_labels(record.masks()) > 0, page > 0)
    tifffile.imwrite(tmp_path / "movie_masks.tif", labels[:2], photometric="minisblack")
    with pytest.raises(FlowsegError, match=r"movie\.tif: holds 3 images, and movie_masks\.tif"):
        read_records(tmp_path, ("hela",))
