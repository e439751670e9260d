"""`flowseg validate` as it is called."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from flowseg.cli import validate
from flowseg.errors import FlowsegError
from flowseg.io.images import write_image


def run(*argv):
    parser = argparse.ArgumentParser()
    validate.add_arguments(parser)
    return validate.run(parser.parse_args([str(arg) for arg in argv]))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    write_image(folder / "a.png", np.zeros((4, 6), np.uint8))
    write_image(folder / "b.png", np.zeros((5, 6), np.uint8))
    return folder


def test_a_valid_submission(tmp_path, images, capsys):
    (tmp_path / "submission.csv").write_text("id,predicted\na,1 2\na,3 1 9 2\nb,\n")
    assert run(tmp_path / "submission.csv", "--images", images) == 0
    assert capsys.readouterr().out.endswith("valid (3 rows, 2 images, 2 masks)\n")


def test_every_problem_is_printed(tmp_path, images, capsys):
    (tmp_path / "submission.csv").write_text("id,predicted\na,1 2\na,2 1\nb,30 2\n")
    assert run(tmp_path / "submission.csv", "--images", images) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("submission.csv: ")[1] for line in lines] == [
        "row 3: shares pixels with row 2 (1 shared)",
        "row 4: 'predicted' runs past the last pixel of the image",
        "not valid, 2 problems (3 rows, 2 images, 3 masks)",
    ]


def test_a_file_or_folder_that_is_missing(tmp_path, images):
    with pytest.raises(FlowsegError, match=r"none\.csv: is missing"):
        run(tmp_path / "none.csv", "--images", images)
    with pytest.raises(FlowsegError, match="neither a folder nor an image"):
        run(tmp_path / "none.csv", "--images", tmp_path / "nowhere")
