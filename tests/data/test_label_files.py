"""Labels of other tools and our own are taken in every form; raw images and masks are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from flowseg.data.folder import read_folder
from flowseg.data.label_files import labelled_images
from flowseg.errors import FlowsegError
from flowseg.evaluation.sources import read_truth
from flowseg.formats.coco import coco_image, write_coco
from flowseg.formats.writers import Formats
from flowseg.io.images import read_labels, write_image, write_labels
from flowseg.prediction.export import export_labels

LABELS = np.zeros((40, 50), np.int32)
LABELS[5:15, 5:15], LABELS[20:35, 20:45] = 1, 2
RNG = np.random.default_rng(0)
NOISE = RNG.integers(60, 190, (40, 50)).astype(np.uint8)


def white(folder: Path, name: str, pieces: int, value: int = 255) -> None:
    mask = np.zeros((40, 50), np.uint8)
    for k in range(pieces):
        mask[2:8, 2 + 10 * k : 8 + 10 * k] = value
    write_image(folder / name, mask)


def test_a_stack_of_labels_beside_a_stack_of_images(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "t.tif", np.stack([NOISE] * 3), photometric="minisblack")
    stack = np.stack([LABELS, LABELS * 2, LABELS * 3]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "t_masks.tif", stack, photometric="minisblack")
    found = labelled_images(tmp_path)
    assert list(found) == ["t_0000", "t_0001", "t_0002"]
    assert np.array_equal(found["t_0002"].read(), LABELS * 3)
    assert read_truth(tmp_path)["t_0001"].shape == (40, 50)
    assert len(read_truth(tmp_path)["t_0001"].masks()) == 2
    assert export_labels(tmp_path, Formats(seg_npy=tmp_path / "seg")) == (3, 6)
    seg = np.load(tmp_path / "seg" / "t_0001_seg.npy", allow_pickle=True).item()
    assert np.array_equal(seg["masks"], LABELS)  # numbered without gaps


def test_a_coco_file_beside_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png", NOISE)
    entries = [coco_image(f"{name}.png", LABELS) for name in ("a", "b", "gone")]
    write_coco(tmp_path / "mine.json", entries)
    (tmp_path / "notes.json").write_text("{}")
    records = read_folder(tmp_path, "neuron")
    assert [(r.image_id, r.cell_type, r.shape) for r in records] == [
        ("a", "neuron", (40, 50)),
        ("b", "neuron", (40, 50)),
    ]
    assert len(records[0].masks()) == 2
    assert "images of mine.json are left out: they are not beside it (gone)" in caplog.text
    assert set(read_truth(tmp_path)) == {"a", "b", "gone"}
    assert export_labels(tmp_path / "mine.json", Formats(labels=tmp_path / "out")) == (3, 6)
    assert np.array_equal(read_labels(tmp_path / "out" / "a.tif"), LABELS)
    write_coco(tmp_path / "other.json", entries[:1])
    with pytest.raises(FlowsegError, match=r"several COCO files: mine\.json, other"):
        read_folder(tmp_path)
    (tmp_path / "other.json").rename(tmp_path / "annotations.json")
    assert [record.image_id for record in read_folder(tmp_path)] == ["a"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_raw_images_are_no_labels(tmp_path: Path, dtype: type) -> None:
    image = RNG.integers(1, 200, (120, 120)) if dtype == np.uint8 else RNG.permutation(120 * 120)
    tifffile.imwrite(tmp_path / "a.tif", image.reshape(120, 120).astype(dtype))
    with pytest.raises(FlowsegError, match=r"a\.tif: is no label image.*NAME_masks\.tif"):
        read_truth(tmp_path)["a"].masks()


def test_a_jpeg_is_no_label_image(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.jpg")
    with pytest.raises(FlowsegError, match="is a JPEG"):
        read_truth(tmp_path)["a"].masks()


def test_masks_of_0_and_255_are_judged_as_a_set(tmp_path: Path) -> None:
    white(tmp_path, "a.png", 1)
    white(tmp_path, "b.png", 2)
    with pytest.raises(FlowsegError, match=r"b\.png: gives all its 2 pieces the one number 255"):
        labelled_images(tmp_path)
    white(tmp_path, "b.png", 1)  # one cell in each image
    assert list(labelled_images(tmp_path)) == ["a", "b"]
    white(tmp_path, "a.png", 3, value=1)
    white(tmp_path, "b.png", 4, value=1)
    with pytest.raises(FlowsegError, match="4 pieces"):
        labelled_images(tmp_path)
    white(tmp_path, "a.png", 5, value=1)  # one cell that others cut up, among label images
    write_labels(tmp_path / "c.tif", LABELS)
    assert list(labelled_images(tmp_path)) == ["a", "b", "c"]


def test_a_palette_of_greys_is_read_as_greys(tmp_path: Path) -> None:
    image = Image.fromarray(((LABELS == 0) + 2 * (LABELS == 2)).astype(np.uint8), "P")
    image.putpalette([7, 7, 7, 0, 0, 0, 9, 9, 9])  # background is the index 1
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), np.array([0, 7, 9])[LABELS])
    image.putpalette([7, 0, 7, 0, 0, 0, 9, 9, 9])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), np.array([1, 0, 2])[LABELS])


def test_labels_with_alpha(tmp_path: Path) -> None:
    grey = np.stack([LABELS] * 3 + [np.full_like(LABELS, 255)], axis=-1).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), LABELS)


def test_zarr_labels_beside_images(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="zarr is not installed")
    write_image(tmp_path / "a.png", NOISE)
    store = tmp_path / "a_labels.zarr"
    store.mkdir()
    meta = {
        **{"zarr_format": 2, "shape": [40, 50], "chunks": [40, 50], "dtype": "<f4", "order": "C"},
        **{"compressor": None, "fill_value": 0, "filters": None},
    }
    (store / ".zarray").write_text(json.dumps(meta))
    (store / "0.0").write_bytes(LABELS.astype("<f4").tobytes())
    (record,) = read_folder(tmp_path)
    assert np.array_equal(record.masks().paint(), LABELS)


@pytest.mark.parametrize("colours", [2, 4])
def test_classes_and_colours_of_cells_are_no_labels(tmp_path: Path, colours: int) -> None:
    """As in https://github.com/SchapiroLabor/micronuclAI/issues/7 and omnipose's n-color masks."""
    cells = np.zeros((90, 90), np.uint8)
    for k in range(36):
        y, x = 15 * (k // 6), 15 * (k % 6)
        cells[y : y + 9, x : x + 9] = k + 1
    write_labels(tmp_path / "a.tif", cells)
    assert list(labelled_images(tmp_path)) == ["a"]
    for name in ("a.tif", "b.tif"):
        write_labels(tmp_path / name, np.where(cells > 0, cells % colours + 1, 0).astype(np.uint8))
    with pytest.raises(FlowsegError, match=f"gives all its 36 pieces {colours} numbers"):
        labelled_images(tmp_path)
    # Cells that others cut in two keep their numbers.
    cells[:, 4] = 0
    write_labels(tmp_path / "b.tif", cells)
    assert list(labelled_images(tmp_path)) == ["a", "b"]


def test_coco_results_are_labels_of_the_size_that_they_say(tmp_path: Path) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    labels = np.zeros((40, 50), np.int32)
    labels[3:9, 4:12], labels[20:30, 5:9] = 1, 2
    results = []
    for number in (1, 2):
        packed = mask.encode(np.asfortranarray((labels == number).astype(np.uint8)))
        packed["counts"] = packed["counts"].decode()
        results.append({"image_id": "well/a.tif", "segmentation": packed, "score": 0.5})
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    found = labelled_images(path)
    assert list(found) == ["a"]
    assert np.array_equal(found["a"].read(), labels)
    polygon = {"image_id": 7, "segmentation": [[1, 1, 5, 1, 5, 5]], "score": 0.5}
    path.write_text(json.dumps([polygon]), encoding="utf-8")
    with pytest.raises(FlowsegError, match=r"how large the image '7' is.*run lengths"):
        labelled_images(path)
