"""What other tools open, read back with those tools' own libraries."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from flowseg.arrays.labels import renumber
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.livecell import read_livecell
from flowseg.errors import FlowsegError
from flowseg.evaluation.sources import read_truth
from flowseg.formats.cell_table import COLUMNS, cell_rows, measure_cells, write_cells
from flowseg.formats.coco import coco_image, write_coco
from flowseg.formats.imagej import outline_rings
from flowseg.formats.seg_npy import read_seg
from flowseg.formats.writers import WRITERS, Formats, SegmentedImage
from flowseg.io.image_source import list_images
from flowseg.io.images import read_labels, write_image, write_labels
from flowseg.prediction.export import export_labels

Labels = NDArray[np.int32]

SHAPES = np.array(
    [
        [1, 1, 1, 0, 2, 0, 0, 9, 9, 0],
        [1, 0, 1, 0, 0, 2, 0, 9, 9, 0],
        [1, 1, 1, 0, 2, 0, 0, 0, 0, 9],
        [0, 0, 0, 7, 0, 0, 4, 4, 4, 4],
        [0, 7, 0, 0, 0, 0, 4, 0, 4, 4],
        [5, 5, 5, 5, 5, 5, 4, 4, 0, 4],
        [5, 5, 5, 5, 5, 5, 4, 4, 4, 4],
    ],
    np.int32,
)
"""A hole, pixels that touch at corners, several pieces, gaps in the ids, cells at every border."""


@pytest.fixture(params=["drawn", "noise", "empty", "real"])
def labels(request: pytest.FixtureRequest, rng: np.random.Generator) -> Labels:
    if request.param == "real":
        records = read_livecell(request.getfixturevalue("real_data"), ("train",))
        return masks_to_labels(records[-1].masks())
    noise = rng.integers(0, 6, (23, 17), dtype=np.int32)
    return {"drawn": SHAPES, "noise": noise, "empty": noise * 0}[request.param]


def item(file_name: str, labels: Labels, **more: Any) -> SegmentedImage:
    return SegmentedImage(image_id=Path(file_name).stem, file_name=file_name, labels=labels, **more)


def filled(rings: list[NDArray[np.integer]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Even-odd: right of each upright edge, in its rows, inside becomes outside."""
    mask = np.zeros(shape, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(
            ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True
        ):
            assert (x0 == x1) != (y0 == y1)
            mask[min(y0, y1) : max(y0, y1), x0:] ^= x0 == x1
    return mask


def test_outlines_fill_to_the_same_pixels(labels: Labels) -> None:
    again = np.zeros_like(labels)
    for cell, rings in outline_rings(labels):
        again[filled(rings, labels.shape)] = cell
    assert np.array_equal(again, labels)


def test_pieces_and_holes_are_rings() -> None:
    rings = {cell: len(found) for cell, found in outline_rings(SHAPES)}
    assert rings == {1: 2, 2: 1, 4: 3, 5: 1, 7: 2, 9: 1}


def test_imagej_rois_by_roifile(labels: Labels, tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile", reason="ImageJ ROIs need roifile")
    for _ in range(2):  # the second replaces the first
        Formats(rois=tmp_path).write(item("a.png", labels))
    again = np.zeros_like(labels)
    path = tmp_path / "a_rois.zip"
    with zipfile.ZipFile(path) as file:
        assert len(file.namelist()) == len(np.unique(labels[labels > 0]))
    for roi in roifile.roiread(path) if labels.any() else []:
        rings = [np.asarray(ring).astype(int) for ring in roi.coordinates(multi=True)]
        rings = [ring[:-1] if (ring[0] == ring[-1]).all() else ring for ring in rings]
        again[filled(rings, labels.shape)] = int(roi.name)
        corners = np.concatenate(rings)
        assert (roi.left, roi.top) == tuple(corners.min(axis=0))
        assert (roi.right, roi.bottom) == tuple(corners.max(axis=0))
    assert np.array_equal(again, labels)


def test_rois_without_roifile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(FlowsegError, match=r"pip install 'flowseg\[rois\]'"):
        Formats(rois=tmp_path / "rois").check()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_by_pycocotools(labels: Labels, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    path = tmp_path / "cell_types.json"
    formats = Formats(coco=path)
    images = [
        item("empty.png", np.zeros((3, 4), np.int32)),
        item("a.png", labels, cell_type="neuron"),
    ]
    formats.write_collected(lambda: map(formats.write, images))
    opened = coco.COCO(path)
    assert opened.imgs[2] | {"id": 2} == {
        **{"id": 2, "file_name": "a.png"},
        **{"height": labels.shape[0], "width": labels.shape[1]},
    }
    again = np.zeros_like(labels)
    from pycocotools import mask as tools

    cells = opened.loadAnns(opened.getAnnIds(imgIds=[2]))
    assert len(opened.anns) == len(cells)
    for number, cell in zip(np.unique(labels[labels > 0]), cells, strict=True):
        again[opened.annToMask(cell) > 0] = number
        assert opened.cats[cell["category_id"]]["name"] == "neuron"
        assert tools.area(opened.annToRLE(cell)) == cell["area"]
        assert tools.toBbox(opened.annToRLE(cell)).tolist() == cell["bbox"]
    assert np.array_equal(again, labels)


def test_coco_is_a_truth_to_evaluate_on(labels: Labels, tmp_path: Path) -> None:
    half = np.full(len(np.unique(labels[labels > 0])), 0.5)
    image = coco_image("a.png", labels, cell_type="neuron", scores=half)
    write_coco(tmp_path / "truth.json", [image])
    source = read_truth(tmp_path / "truth.json")["a"]
    assert source.shape == labels.shape
    assert np.array_equal(masks_to_labels(source.masks()), renumber(labels))
    cells = json.loads((tmp_path / "truth.json").read_text())["annotations"]
    assert all(cell["score"] == 0.5 for cell in cells)


def test_label_tiff_by_tifffile(labels: Labels, tmp_path: Path) -> None:
    formats = Formats(label_tiff=tmp_path)
    formats.write(item("a.png", labels))
    with tifffile.TiffFile(tmp_path / "a_labels.tif") as file:
        assert file.is_imagej
        assert file.imagej_metadata is not None
        assert file.imagej_metadata["max"] == max(1, labels.max())
        assert np.array_equal(file.asarray(), labels)
    formats.write(item("wide.png", np.where(labels > 0, labels + 70000, 0)))
    assert read_labels(tmp_path / "wide_labels.tif").max() in (0, labels.max() + 70000)


def test_seg_npy_read_back(labels: Labels, tmp_path: Path) -> None:
    image = np.arange(labels.size, dtype=np.uint16).reshape(labels.shape)
    Formats(seg_npy=tmp_path).write(item("a.tif", labels, image=image))
    assert np.array_equal(read_seg(tmp_path / "a_seg.npy"), renumber(labels))
    content = np.load(tmp_path / "a_seg.npy", allow_pickle=True).item()
    assert np.array_equal(content["img"], image)
    assert content["filename"] == "a.tif"
    assert len(content["ismanual"]) == content["masks"].max()


def test_seg_npy_by_cellpose(labels: Labels, tmp_path: Path) -> None:
    io = pytest.importorskip("cellpose.io", reason="Cellpose is not installed")
    write_image(tmp_path / "a.tif", np.zeros(labels.shape, np.uint8))
    Formats(seg_npy=tmp_path).write(item("a.tif", labels))
    _, masks, *_ = io.load_train_test_data(str(tmp_path), mask_filter="_seg.npy")
    assert np.array_equal(masks[0], renumber(labels))


def test_measures_of_cells(rng: np.random.Generator) -> None:
    bar = np.zeros((9, 20), np.int32)
    bar[2:4, 3:13] = 6
    bar[5:8, 15:18] = 2
    cells = measure_cells(bar)
    assert cells["cell"].tolist() == [2, 6]
    assert cells["area"].tolist() == [9, 20]
    assert cells["x"].tolist() == [16, 7.5]
    assert cells["y"].tolist() == [6, 2.5]
    boxes = np.stack([cells[name] for name in ("left", "top", "width", "height")], axis=1)
    assert boxes.tolist() == [[15, 5, 3, 3], [3, 2, 10, 2]]
    # a rectangle's moments are those of sides 10 and 2: e² = 1 - 2²/10²
    assert cells["eccentricity"] == pytest.approx([0, np.sqrt(0.96)])
    turned = measure_cells(np.rot90(bar))
    assert turned["eccentricity"] == pytest.approx(cells["eccentricity"])


def test_intensities_of_cells() -> None:
    labels = np.array([[0, 2, 2], [7, 7, 0]])
    image = np.array([[9, 100, 300], [5, 5, 9]], np.uint16)
    rows = cell_rows("a", labels, image=np.stack([image] * 3, axis=-1))
    assert [row[-4:] for row in rows] == [
        ["200.0000", "100.0000", "300.0000", "100.0000"],
        ["5.0000", "5.0000", "5.0000", "0.0000"],
    ]
    assert cell_rows("a", labels)[0][-4:] == [""] * 4
    assert cell_rows("a", labels * 0, image=image) == []


def test_table_of_cells(tmp_path: Path) -> None:
    cellprob = np.where(SHAPES > 0, SHAPES, -5).astype(np.float32)
    images = [
        cell_rows("a", SHAPES, cell_type="astro", cellprob=cellprob, scores=np.arange(6) / 10),
        cell_rows("b", SHAPES),
        cell_rows("c", SHAPES * 0),
    ]
    write_cells(tmp_path / "cell_types.csv", images)
    with (tmp_path / "cell_types.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["cell"] for row in rows] == ["1", "2", "4", "5", "7", "9"] * 2
    assert [float(row["cellprob"]) for row in rows[:6]] == [1, 2, 4, 5, 7, 9]
    assert [row["score"] for row in rows[:2]] == ["0.0000", "0.1000"]
    assert {row["cellprob"] + row["score"] for row in rows[6:]} == {""}
    assert {row["cell_type"] for row in rows[:6]} == {"astro"}


def test_export_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    write_labels(tmp_path / "labels" / "x.tif", SHAPES)
    formats = Formats(coco=tmp_path / "c.json", cells=tmp_path / "c.csv")
    assert export_labels(tmp_path / "labels", formats) == (1, 6)
    again = (tmp_path / "c.json").read_bytes(), (tmp_path / "c.csv").read_bytes()
    assert export_labels(tmp_path / "labels", formats) == (1, 6)
    assert again == ((tmp_path / "c.json").read_bytes(), (tmp_path / "c.csv").read_bytes())
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "y.png", np.zeros((7, 10), np.uint8))
    with pytest.raises(FlowsegError, match="holds no image 'x', which has labels"):
        export_labels(tmp_path / "labels", formats, tmp_path / "images")
    write_image(tmp_path / "images" / "x.png", np.zeros((7, 9), np.uint8))
    with pytest.raises(FlowsegError, match=r"x.png: is 9 x 7 .* x.tif says 10 x 7"):
        export_labels(tmp_path / "labels", Formats(seg_npy=tmp_path / "s"), tmp_path / "images")
    with pytest.raises(FlowsegError, match="no format to export to"):
        export_labels(tmp_path / "labels", Formats())
    with pytest.raises(FlowsegError, match="is a folder"):
        export_labels(tmp_path / "labels", Formats(coco=tmp_path / "images"))
    with pytest.raises(FlowsegError, match=r"overlays cannot be written from label images"):
        export_labels(tmp_path / "labels", Formats(overlays=tmp_path, coco=tmp_path / "c.json"))


def test_every_format_has_a_writer() -> None:
    others = {"labels_format", "blank_failed"}
    assert set(WRITERS) == {entry.name for entry in fields(Formats)} - others


def test_cells_are_one_table_or_one_for_each_image(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    write_labels(tmp_path / "labels" / "x.tif", SHAPES)
    write_labels(tmp_path / "labels" / "y.tif", SHAPES.T)
    export_labels(tmp_path / "labels", Formats(cells=tmp_path / "all.csv"))
    export_labels(tmp_path / "labels", Formats(cells=tmp_path / "each"))
    header, *rows = (tmp_path / "all.csv").read_text().splitlines()
    parts = [(tmp_path / "each" / f"{n}_cells.csv").read_text().splitlines() for n in "xy"]
    assert [part[0] for part in parts] == [header, header]
    assert parts[0][1:] + parts[1][1:] == rows


def test_label_images_as_zarr(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="zarr is not installed")
    formats = Formats(labels=tmp_path, labels_format="zarr")
    formats.check()
    formats.write(item("a.png", SHAPES))
    (source,) = list_images(tmp_path / "a.zarr")
    assert np.array_equal(source.read(), SHAPES)
