"""A submission that is written passes the checks; each way to spoil one is named with its row."""

from __future__ import annotations

import numpy as np
import pytest

from flowseg.arrays.rle import Masks, rle_encode
from flowseg.errors import FlowsegError
from flowseg.formats.submission import Problem, image_shapes, validate_submission, write_submission
from flowseg.io.images import write_image

SHAPES = {"a": (4, 6), "b": (4, 6)}
LABELS = np.array([[1, 1, 0, 0, 0, 9], [0, 1, 0, 0, 9, 9], [0, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]])


def problems(tmp_path, *rows, shapes=SHAPES, columns="id,predicted"):
    path = tmp_path / "spoilt.csv"
    path.write_text("\n".join([columns, *rows]) + "\n")
    return [str(problem) for problem in validate_submission(path, shapes).problems]


def test_what_is_written_is_valid_and_the_same_every_time(tmp_path):
    path = tmp_path / "submission.csv"
    assert write_submission(path, [("b", LABELS), ("a", np.zeros((4, 6), np.uint16))]) == 3
    assert path.read_bytes() == b"id,predicted\nb,1 2 8 1\nb,19 1\nb,6 1 11 2\na,\n"
    found = validate_submission(path, SHAPES)
    assert found.problems == ()
    assert (found.n_rows, found.n_images, found.n_masks) == (4, 2, 3)


def test_nothing_is_written_that_would_not_be_valid(tmp_path):
    path = tmp_path / "submission.csv"
    overlap = Masks.from_strings(["1 3", "3 2"], (4, 6))
    for predictions, complaint in (
        ([("a", LABELS), ("b", overlap)], "'b': shares pixels"),
        ([("a", Masks.from_strings(["1 3", ""], (4, 6)))], "'a': is blank"),
        ([("a", LABELS), ("a", LABELS)], "'a': comes twice"),
        ([("../a", LABELS)], "plain file name"),
    ):
        with pytest.raises(FlowsegError, match=complaint):
            write_submission(path, predictions)
        assert list(tmp_path.iterdir()) == []


def test_a_prediction_that_fails_halfway_leaves_nothing_behind(tmp_path):
    def predictions():
        yield "a", LABELS
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        write_submission(tmp_path / "submission.csv", predictions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a,1 2", "b,", "b,"], ["row 4: is blank, as row 3 of its image is"]),
        (["a,1 2", "b,3 1", "b,"], ["row 4: is blank, but its image has masks in other rows"]),
        (["a,1 2", "b,", "c,1 1"], ["row 4: the image 'c' is not known"]),
        (["a,1 2"], ["the image 'b' has no row"]),
        (
            ["a,1 2 3", "b,"],
            ["row 2: 'predicted' holds an odd count of numbers, not pairs of start and length"],
        ),
        (["a,3 1 1 1", "b,"], ["row 2: 'predicted' holds runs that overlap or do not ascend"]),
        (["a,0 2", "b,"], ["row 2: 'predicted' holds a start below 1 (starts are counted from 1)"]),
        (["a,24 2", "b,"], ["row 2: 'predicted' runs past the last pixel of the image"]),
        (["a,1 2", "a,4 2", "a,2 4", "b,"], ["row 4: shares pixels with row 2 (3 shared)"]),
    ],
)
def test_each_problem_is_named_with_its_row(tmp_path, rows, expected):
    assert problems(tmp_path, *rows) == expected


def test_rows_of_one_image_may_be_anywhere(tmp_path):
    assert problems(tmp_path, "a,1 2", "b,", "a,2 1") == [
        "row 4: shares pixels with row 2 (1 shared)"
    ]


def test_all_problems_are_found_at_once_in_order_of_rows(tmp_path):
    found = problems(tmp_path, "c,1 1", "a,x 1", "a,1 1", "a,1 1")
    assert [text.split(":")[0] for text in found] == [
        "the image 'b' has no row",
        "row 2",
        "row 3",
        "row 5",
    ]


def test_other_columns_are_a_problem(tmp_path):
    found = problems(tmp_path, "a,1 2,0", "b,,0", columns="id,predicted,score")
    assert found == ["row 1: the columns are id,predicted,score, not id,predicted"]
    with pytest.raises(FlowsegError, match="'predicted'"):
        problems(tmp_path, "a,1 2", columns="id,annotation")


def discs(shape):
    y, x = np.indices(shape)
    centres = [(20, 30), (20, 90), (60, 40), (60, 130), (40, 60)]
    return [(y - cy) ** 2 + (x - cx) ** 2 < 64 for cy, cx in centres]


@pytest.mark.parametrize("shape", [(80, 150), (150, 140)])
def test_runs_down_columns_are_recognised(tmp_path, shape):
    masks = discs(shape)
    right = [f"a,{rle_encode(mask)}" for mask in masks]
    wrong = [f"a,{rle_encode(mask.T)}" for mask in masks]
    assert problems(tmp_path, *right, shapes={"a": shape}) == []
    assert any("down columns" in text for text in problems(tmp_path, *wrong, shapes={"a": shape}))


def test_the_real_annotations_go_along_rows(tmp_path, real_data):
    lines = (real_data / "train.csv").read_text().splitlines()[1:300]
    rows = [",".join(line.split(",")[:2]) for line in lines]
    shapes = {row.split(",")[0]: (520, 704) for row in rows}
    assert not any("columns" in text for text in problems(tmp_path, *rows, shapes=shapes))
    flipped = {row.split(",")[0]: (704, 520) for row in rows}
    assert any("columns" in text for text in problems(tmp_path, *rows, shapes=flipped))


def test_image_shapes_are_read_from_the_folder(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((4, 6), np.uint8))
    assert image_shapes(tmp_path) == {"a": (4, 6)}


def test_problems_sort_by_row():
    assert sorted([Problem(3, "b"), Problem(0, "c"), Problem(3, "a")])[0].row == 0
