"""File against file: every kind of truth and prediction, and what is said of the result."""

from __future__ import annotations

import argparse
import csv
import json
import pickle

import numpy as np
import pytest

from flowseg.arrays.rle import Masks, rle_encode
from flowseg.cli import evaluate as command
from flowseg.errors import FlowsegError
from flowseg.evaluation.evaluate import evaluate
from flowseg.io.images import write_labels
from flowseg.metrics.competition import competition_score
from flowseg.reports.text import as_text

TRUTH = {
    "a": np.repeat([[1, 1, 0, 2, 2, 2]], 4, axis=0),
    "b": np.repeat([[0, 0, 0, 3, 3, 0]], 4, axis=0),
    "c": np.zeros((4, 6), dtype=int),
}
PRED = {
    "a": np.repeat([[0, 0, 0, 7, 7, 7]], 4, axis=0),
    "b": np.repeat([[5, 5, 0, 0, 0, 0]], 4, axis=0),
}
TYPES = {"a": "cort", "b": "astro", "c": "cort"}


def write_truth(path):
    lines = ["id,annotation,width,height,cell_type"]
    for name, labels in TRUTH.items():
        texts = Masks.from_labels(labels).to_strings() or [""]
        lines += [f"{name},{text},6,4,{TYPES[name]}" for text in texts]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_coco(path):
    boxes = {"a": [(0, 0, 2, 4), (3, 0, 3, 4)], "b": [(3, 0, 2, 4)], "c": []}
    images = [
        {"id": k, "file_name": f"{name}.tif", "height": 4, "width": 6}
        for k, name in enumerate(boxes)
    ]
    annotations = [
        {
            "id": 10 * k + j,
            "image_id": k,
            "category_id": 1 + (name == "b"),
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for k, (name, cells) in enumerate(boxes.items())
        for j, (x, y, w, h) in enumerate(cells)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cort"}, {"id": 2, "name": "astro"}],
    }
    path.write_text(json.dumps(content))
    return path


def write_pred(path, pred=PRED):
    lines = ["id,predicted"]
    for name, labels in pred.items():
        lines += [f"{name},{text}" for text in Masks.from_labels(labels).to_strings() or [""]]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_folder(folder, images):
    folder.mkdir()
    for name, labels in images.items():
        write_labels(folder / f"{name}.tif", labels.astype(np.int32))
    return folder


@pytest.fixture
def truths(tmp_path):
    return {
        "csv": write_truth(tmp_path / "train.csv"),
        "coco": write_coco(tmp_path / "coco.json"),
        "labels": write_folder(tmp_path / "truth", TRUTH),
    }


@pytest.mark.parametrize("kind", ["csv", "coco", "labels"])
@pytest.mark.parametrize("form", ["csv", "labels"])
def test_every_pair_of_files_gives_the_same_score(tmp_path, truths, kind, form):
    pred = (
        write_pred(tmp_path / "submission.csv")
        if form == "csv"
        else write_folder(tmp_path / "pred", PRED)
    )
    result = evaluate(truths[kind], pred)
    assert [image.image_id for image in result.images] == ["a", "b"]
    assert [image.score for image in result.images] == [0.5, 0.0]
    assert result.score == 0.25
    assert result.totals(0) == (1, 1, 2)
    assert result.missing == ("c",)
    copy = pickle.loads(pickle.dumps(result))
    assert copy.score == result.score
    assert [len(masks) for masks in copy.images[0].masks()] == [2, 1]
    if kind != "labels":
        assert result.cell_types == ("astro", "cort") if kind == "csv" else True
        assert result.of_type("cort").score == 0.5


def test_images_that_are_missing_can_be_counted(tmp_path, truths):
    pred = write_pred(tmp_path / "submission.csv", {"b": TRUTH["b"]})
    assert evaluate(truths["csv"], pred).score == 1.0
    counted = evaluate(truths["csv"], pred, missing="count")
    # a holds two cells of which none was found; c holds none, and none was found
    assert [image.score for image in counted.images] == [0.0, 1.0, 1.0]
    assert counted.missing == ("a", "c")
    assert "left out" in as_text(evaluate(truths["csv"], pred))
    assert "counted as empty" in as_text(counted)


@pytest.mark.parametrize(("spelling", "images"), [("leave-out", 1), ("leave_out", 1), ("count", 3)])
def test_missing_images_on_the_command_line(tmp_path, truths, capsys, spelling, images):
    pred = write_pred(tmp_path / "submission.csv", {"b": TRUTH["b"]})
    assert run_command("--truth", truths["csv"], "--pred", pred, "--missing", spelling) == 0
    assert f"mean over {images} image" in capsys.readouterr().out
    with pytest.raises(FlowsegError, match="choose leave-out or count"):
        evaluate(truths["csv"], pred, missing="ignore")


def test_only_the_images_that_are_named(tmp_path, truths):
    pred = write_pred(tmp_path / "submission.csv")
    result = evaluate(truths["csv"], pred, images=["a", "c"])
    assert (result.score, result.missing) == (0.5, ("c",))
    with pytest.raises(FlowsegError, match="'z' is not in the truth"):
        evaluate(truths["csv"], pred, images=["z"])
    with pytest.raises(FlowsegError, match="none of the images"):
        evaluate(truths["csv"], pred, images=["c"])


def test_truth_with_overlaps_keeps_them(tmp_path):
    line = np.arange(24).reshape(4, 6)
    masks = [line < 14, (line >= 7) & (line < 21)]
    rows = "".join(f"a,{rle_encode(mask)},6,4,cort\n" for mask in masks)
    (tmp_path / "train.csv").write_text("id,annotation,width,height,cell_type\n" + rows)
    (tmp_path / "pred.csv").write_text(
        "id,predicted\n" + "".join(f"a,{rle_encode(mask)}\n" for mask in masks)
    )
    assert evaluate(tmp_path / "train.csv", tmp_path / "pred.csv").score == 1.0


@pytest.mark.parametrize("packed", [True, False])
def test_coco_run_lengths(tmp_path, packed):
    path = write_coco(tmp_path / "coco.json")
    content = json.loads(path.read_text())
    # cell 1 of image a: the first two columns; cell 2: the last three, packed by pycocotools
    runs = {"size": [4, 6], "counts": "<<" if packed else [12, 12]}
    content["annotations"][1]["segmentation"] = runs
    content["annotations"] = {str(cell["id"]): cell for cell in content["annotations"]}
    path.write_text(json.dumps(content))
    pred = write_pred(tmp_path / "submission.csv", TRUTH)
    assert evaluate(path, pred).score == 1.0


def bad_files():
    truth = "id,annotation,width,height,cell_type\na,1 2,6,4,cort\n"
    return [
        (truth, "id,predicted\na,1 2\nz,1 2\n", "row 3: z: not in the truth"),
        (truth, "id,predicted\na,1 2 3\n", "row 2: 'predicted' holds an odd count"),
        (truth, "id,predicted\na,1 2\na,24 2\n", "row 3: 'predicted' runs past the last pixel"),
        (truth, "id,predicted\n", "holds no row"),
        (truth, "id,mask\na,1 2\n", "no column 'predicted'"),
        (truth.replace("1 2", "1"), "id,predicted\na,1 2\n", "row 2: the annotation"),
    ]


@pytest.mark.parametrize(("truth", "pred", "complaint"), bad_files())
def test_a_bad_row_is_named(tmp_path, truth, pred, complaint):
    (tmp_path / "train.csv").write_text(truth)
    (tmp_path / "pred.csv").write_text(pred)
    with pytest.raises(FlowsegError, match=complaint):
        evaluate(tmp_path / "train.csv", tmp_path / "pred.csv")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"images": 3, "annotations": []}',
        '{"images": [], "annotations": []}',
        '{"images": [{"id": 1}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "a", "height": 4, "width": 6}], "annotations":'
        ' [{"image_id": 2}]}',
        *(
            f'{{"images": [{{"id": 1, "file_name": "a", "height": {side}, "width": 6}}],'
            f' "annotations": []}}'
            for side in ("null", '"x"', "1e400", "NaN", "-4", "0", "4.5", "true", "9" * 30)
        ),
        "[" * 100_000,
    ],
)
def test_a_bad_coco_file_is_refused(tmp_path, content):
    (tmp_path / "coco.json").write_text(content)
    pred = write_pred(tmp_path / "pred.csv")
    with pytest.raises(FlowsegError, match=r"coco\.json"):
        evaluate(tmp_path / "coco.json", pred)


def test_files_that_are_missing_or_of_an_unknown_format(tmp_path, truths):
    pred = write_pred(tmp_path / "pred.csv")
    with pytest.raises(FlowsegError, match="is missing"):
        evaluate(tmp_path / "none.csv", pred)
    with pytest.raises(FlowsegError, match="is missing"):
        evaluate(truths["csv"], tmp_path / "none")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(FlowsegError, match="has an unknown format"):
        evaluate(truths["csv"], tmp_path / "x.txt")
    with pytest.raises(FlowsegError, match="has an unknown format"):
        evaluate(tmp_path / "x.txt", pred)


def test_labels_of_another_size_are_refused(tmp_path, truths):
    folder = write_folder(tmp_path / "pred", {"a": np.zeros((4, 5))})
    with pytest.raises(FlowsegError, match="5 x 4 pixels, the truth 6 x 4"):
        evaluate(truths["csv"], folder)


def run_command(*argv):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(arg) for arg in argv]))


def test_the_command_prints_the_table_and_writes_csv_and_json(tmp_path, truths, capsys):
    pred = write_pred(tmp_path / "submission.csv")
    (tmp_path / "ids.txt").write_text("a\nb\n")
    code = run_command(
        "--truth",
        truths["csv"],
        "--pred",
        pred,
        "--csv",
        tmp_path / "out.csv",
        "--json",
        tmp_path / "out.json",
        "--other-metrics",
        "pooled",
        "--ids",
        tmp_path / "ids.txt",
    )
    assert code == 0
    shown = capsys.readouterr().out
    assert "competition score  0.2500  (mean over 2 images)" in shown
    assert shown.index("b    ") < shown.index("a    "), "worst first"
    assert "none of them the competition's" in shown
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["b", "a"]
    assert (rows[1]["tp_50"], rows[1]["fp_50"], rows[1]["fn_50"]) == ("1", "0", "1")
    assert [(row["missed"], row["spurious"]) for row in rows] == [("1", "1"), ("1", "0")]
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["score"] == 0.25
    assert written["thresholds"][9] == {"iou": 0.95, "score": 0.25, "tp": 1, "fp": 1, "fn": 2}
    assert written["cell_types"]["cort"]["score"] == 0.5
    assert written["not_the_competition_score"]["pooled_ap50"] == 0.25


def test_the_table_shows_the_worst_ten_unless_asked(tmp_path):
    names = [f"image{k:02}" for k in range(12)]
    write_folder(tmp_path / "truth", dict.fromkeys(names, TRUTH["a"]))
    write_folder(tmp_path / "pred", dict.fromkeys(names, PRED["a"]))
    result = evaluate(tmp_path / "truth", tmp_path / "pred")
    assert "10 of 12" in as_text(result)
    assert "image09" in as_text(result)
    assert "image10" not in as_text(result)
    assert "image11" in as_text(result, limit=None)


def test_the_mean_over_images_is_not_the_pooled_number(tmp_path):
    # twenty cells missed in one image, one found in the other
    many = np.arange(1, 25).reshape(4, 6)
    truth = write_folder(tmp_path / "truth", {"a": many, "b": TRUTH["b"]})
    pred = write_folder(tmp_path / "pred", {"a": many * 0, "b": TRUTH["b"]})
    result = evaluate(truth, pred, other=("pooled",))
    assert result.score == np.mean([competition_score(many, many * 0), 1.0]) == 0.5
    assert result.other.pooled_ap50 == 1 / 25


def test_the_real_truth_scores_one_against_itself(real_data, tmp_path):
    lines = (real_data / "train.csv").read_text().splitlines()[1:]
    pairs = [line.split(",")[:2] for line in lines]
    (tmp_path / "pred.csv").write_text(
        "id,predicted\n" + "".join(f"{name},{text}\n" for name, text in pairs)
    )
    result = evaluate(real_data / "train.csv", tmp_path / "pred.csv")
    # where the annotators drew one cell twice both copies are found: matching is one to one
    assert result.score == 1.0
    assert result.cell_types == ("astro", "cort", "shsy5y")
    assert len(result.images) == 36
