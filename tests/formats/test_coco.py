"""COCO as other tools write it: run lengths, broken annotations, repeated entries, crowds."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowseg.errors import FlowsegError
from flowseg.evaluation.evaluate import evaluate
from flowseg.evaluation.sources import read_predictions, read_truth
from flowseg.formats.coco_reader import read_coco, read_coco_results
from flowseg.io.images import write_labels
from flowseg.io.notes import Note

SHAPE = (30, 40)


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def image(number: Any = 1, name: str = "a.png", **changes: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": SHAPE[1], "height": SHAPE[0], **changes}


def cell(
    number: Any, segmentation: Any, image_id: Any = 1, crowd: int = 0, **more: Any
) -> dict[str, Any]:
    ids = {"id": number, "image_id": image_id, "category_id": 1}
    return {**ids, "segmentation": segmentation, "iscrowd": crowd, **more}


def write(
    path: Path, images: list[dict[str, Any]], cells: list[Any], name: str = "truth.json"
) -> Path:
    content = {"images": images, "annotations": cells, "categories": [{"id": 1, "name": "cell"}]}
    (path / name).write_text(json.dumps(content))
    return path / name


def mask_of(folder: Path, segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    path = write(folder, [image(height=shape[0], width=shape[1])], [cell(5, segmentation)])
    masks = read_coco(path)[0].masks()
    return masks.dense(0) if len(masks) else np.zeros(shape, np.bool_)


def test_packed_run_lengths_are_those_of_pycocotools(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for density in (0, 0.001, 0.1, 0.5, 1):
        mask = rng.random((90, 140)) < density
        runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = {"size": runs["size"], "counts": runs["counts"].decode()}
        np.testing.assert_array_equal(mask_of(tmp_path, text, mask.shape), mask)


@pytest.mark.parametrize(
    "runs",
    [
        {"size": [4, 6], "counts": [12, 11]},
        {"size": [6, 4], "counts": [24]},
        {"counts": [24]},
        7,
        None,
        {"size": [4, 6], "counts": "PPP"},
        {"size": [4, 6], "counts": [-1, 25]},
        {"size": [4, 6], "counts": ["x"]},
        {"size": [4, 6], "counts": [[24]]},
        {"size": [4, 6], "counts": "oooooooooooooooo0"},
        {"size": [4, 6], "counts": "o" * 100_000},
        {"size": [4, 6], "counts": "\u00e9"},
        {"size": [4, 6], "counts": [2**63 - 1, 2**63 - 1, 26]},
    ],
)
def test_a_file_of_bad_run_lengths_only_is_refused(tmp_path: Path, runs: Any) -> None:
    with pytest.raises(FlowsegError, match=r"truth\.json: .*id 5.*(run lengths|segmentation)"):
        mask_of(tmp_path, runs, (4, 6))


@pytest.mark.parametrize(
    "bad",
    [
        cell(4711, [[3, 3, 9, 9]]),
        cell(4711, [[]]),
        cell(4711, []),
        cell(4711, None),
        cell(4711, "x"),
        cell(4711, {"size": list(SHAPE)}),
        cell(4711, box(1, 1, 5, 5), image_id=77),
        cell(4711, box(1, 1, 5, 5), image_id=[1]),
        cell(4711, box(1, 1, 5, 5), image_id=None),
        cell(4711, [[1, 1, 5, 1, 5, float("nan")]]),
        cell(4711, [[1, 1, 5, 1, 5, "5"], [1, 1, 5, 1, 5, 5, 7]]),
        cell(4711, {"size": [3, 3], "counts": [9]}),
    ],
)
def test_an_annotation_that_cannot_be_used_is_passed_over_by_its_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: dict[str, Any]
) -> None:
    path = write(tmp_path, [image()], [cell(1, box(5, 5, 25, 25)), bad])
    with caplog.at_level(logging.WARNING):
        assert read_truth(path)["a"].masks().areas().tolist() == [400]
    (line,) = caplog.messages
    assert "1 annotations of truth.json are passed over (id 4711: " in line


def test_what_can_be_read_without_loss_is_read(tmp_path: Path) -> None:
    cells = [
        cell(1, box(5, 5, 25, 25)[0]),  # a polygon without its list
        cell(2, [[1, 1, 2, 2], *box(30, 5, 35, 10)], image_id=1.0),
        cell(3, box(30, 15, 35, 20), image_id="1"),
        cell(4, {"size": list(SHAPE), "counts": [0, 60, 1140]}),
    ]
    path = write(tmp_path, [image(width=40.0, height=30.0)], cells)
    notes: list[Note] = []
    (read,) = read_coco(path, notes.append)
    assert read.masks().areas().tolist() == [400, 25, 25, 60]
    assert (read.shape, read.category, notes) == (SHAPE, "cell", [])


@pytest.mark.parametrize(
    "name",
    ["JPEGImages\\a.jpg", "C:\\my cells\\a.jpg", "..\\a.jpg", "x/a.jpg", "\\\\host\\d\\a.tif"],
)
def test_names_of_any_system(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, [image(name=name)], [])
    assert list(read_truth(path)) == ["a"]


def test_entries_of_one_image_are_united_and_cells_drawn_twice_count_once(tmp_path: Path) -> None:
    first = [cell(1, box(0, 0, 10, 10)), cell(2, box(20, 0, 30, 10))]
    second = [
        cell(3, box(1, 1, 10, 11), 2),  # the first cell, drawn again
        cell(4, box(0, 20, 10, 30), 2),
        cell(5, box(30, 0, 32, 10), 2),  # beside the second one
    ]
    notes: list[Note] = []
    for order in (first + second, second + first):
        path = write(tmp_path, [image(1), image(2)], order)
        (read,) = read_coco(path, notes.append)
        masks = read.masks()
        assert len(masks) == 4
        assert masks.paint()[25, 5] > 0
        assert read.ids == ("1", "2")
    assert [note.names for note in notes] == [("a",), ("a",)]


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([image(1), image(1, "b.png")], "'a.png' and 'b.png' one id 1"),
        ([image(1, "p/a.png"), image(2, "q/a.png")], r"'p/a.png' \(40 x 30\) and 'q/a.png'"),
        ([image(1), image(2, "a.tif")], "'a.png' .* and 'a.tif'"),
        ([image(1), image(2, width=41)], r"\(40 x 30\) and 'a.png' \(41 x 30\)"),
    ],
)
def test_entries_that_cannot_be_told_apart_are_refused_by_name(
    tmp_path: Path, images: list[dict[str, Any]], named: str
) -> None:
    with pytest.raises(FlowsegError, match=named):
        read_coco(write(tmp_path, images, [cell(1, box(0, 0, 9, 9))]))


def test_crowd_regions_are_neither_found_nor_missed(tmp_path: Path) -> None:
    cells = [cell(1, box(2, 2, 12, 12)), cell(2, box(20, 0, 40, 30), crowd=1)]
    path = write(tmp_path, [image()], cells)
    labels = np.zeros(SHAPE, np.int32)
    labels[2:12, 2:12] = 1
    (tmp_path / "pred").mkdir()
    write_labels(tmp_path / "pred" / "a.tif", labels)
    assert evaluate(path, tmp_path / "pred").totals(0) == (1, 0, 0)
    labels[5:9, 22:26] = 2  # within the region
    labels[20:24, 17:23] = 3  # half of it within
    write_labels(tmp_path / "pred" / "a.tif", labels)
    result = evaluate(path, tmp_path / "pred", other=["coco"])
    assert result.totals(0) == (1, 1, 0)
    assert len(result.images[0].masks()[1]) == 2
    # a true cell that lies in the region is still to be found
    path = write(tmp_path, [image()], [*cells, cell(3, box(22, 5, 26, 9))])
    assert evaluate(path, tmp_path / "pred").totals(0) == (2, 1, 0)


def test_results_are_predictions(tmp_path: Path) -> None:
    truth = write(
        tmp_path,
        [image(7, "x/a.png"), image(8, "b.png")],
        [cell(1, box(2, 2, 12, 12), 7), cell(2, box(2, 2, 12, 12), 8)],
    )
    results: list[dict[str, Any]] = [
        {"image_id": 7, "category_id": 1, "segmentation": box(2, 2, 12, 12), "score": 0.9},
        {"image_id": "b", "segmentation": {"size": [30, 40], "counts": [0, 30, 1170]}, "score": 1},
        {"image_id": 8, "segmentation": box(2, 2, 12, 12), "score": 0.5},
    ]
    pred = tmp_path / "results.json"
    pred.write_text(json.dumps(results))
    assert evaluate(truth, pred).totals(0) == (2, 1, 0)
    pred.write_text(json.dumps([*results, {**results[0], "image_id": 9}]))
    with pytest.raises(FlowsegError, match="9: not in the truth"):
        read_predictions(pred, read_truth(truth))
    assert read_coco_results(truth) is None
    assert evaluate(truth, truth).score == 1
