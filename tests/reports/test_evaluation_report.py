"""The report on a prediction, and what became of each object."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flowseg.cli import main
from flowseg.errors import FlowsegError
from flowseg.evaluation.evaluate import evaluate
from flowseg.formats.submission import write_submission
from flowseg.io.images import write_image, write_labels
from flowseg.metrics.competition import HIT, MERGED, MISSED, SPLIT, SPURIOUS, compare
from flowseg.reports.evaluation_report import OUTCOME_COLOURS, binned_precision, write_report
from flowseg.synthetic.datasets import TEST_TRUTH, write_synthetic_sartorius

TRUTH = np.zeros((40, 60), np.int32)
FOUND = np.zeros((40, 60), np.int32)
for number, left in enumerate((2, 12, 22), start=1):
    TRUTH[2:10, left : left + 8] = number
FOUND[2:10, 2:10] = 1  # a hit
FOUND[2:10, 22:26], FOUND[2:10, 26:30] = 2, 3  # two halves of the third; the second is missed
TRUTH[20:26, 2:10], TRUTH[26:32, 2:10] = 4, 5
FOUND[20:32, 2:10] = 4  # merges these two
FOUND[20:26, 30:40] = 5  # is nowhere in the truth


def test_what_became_of_each_object() -> None:
    outcomes = compare(TRUTH, FOUND).outcomes()
    assert outcomes.truth.tolist() == [HIT, MISSED, SPLIT, MERGED, MERGED]
    assert outcomes.pred.tolist() == [HIT, SPLIT, SPLIT, MERGED, SPURIOUS]


@given(
    arrays(np.int32, (6, 7), elements=st.integers(0, 5)),
    arrays(np.int32, (6, 7), elements=st.integers(0, 5)),
)
def test_outcomes_and_counts_agree(truth: np.ndarray, found: np.ndarray) -> None:
    table = compare(truth, found)
    outcomes, counts, mistakes = table.outcomes(), table.counts(), table.mistakes()
    assert (outcomes.truth == HIT).sum() == (outcomes.pred == HIT).sum() == counts.tp[0]
    assert (outcomes.truth == MISSED).sum() == mistakes.missed
    assert (outcomes.pred == SPURIOUS).sum() == mistakes.spurious
    assert not np.isin(outcomes.truth, SPURIOUS).any()
    assert not np.isin(outcomes.pred, MISSED).any()
    for percent, hits in zip(range(50, 100, 5), counts.tp, strict=True):
        assert len(table.matches(percent)[0]) == hits


def test_precision_in_bins() -> None:
    truth, pred = np.zeros((4, 10), bool), np.zeros((3, 10), bool)
    truth[[0, 2, 3], 0] = pred[:2, 0] = True
    sizes = np.array([1.0, 1.0, 9.0, 9.0]), np.array([1.0, 9.0, 9.5])
    lines = binned_precision(*sizes, truth, pred)
    # small: one hit, one missed; large: two hits and one spurious
    assert lines["IoU > 0.50"] == [(1, 0.5), (9, pytest.approx(2 / 3))]
    assert lines["mean of all thresholds"][0] == (1, pytest.approx(0.05))
    assert binned_precision(np.zeros(0), np.ones(2), truth[:0], pred[:2]) == {}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of one's own with a truth, and a folder of label images found."""
    (tmp_path / "own").mkdir()
    (tmp_path / "found").mkdir()
    for name in ("a", "<b>"):
        grey = np.linspace(0, 255, TRUTH.size).reshape(TRUTH.shape).astype(np.uint8)
        write_image(tmp_path / "own" / f"{name}.png", grey)
        write_labels(tmp_path / "own" / f"{name}_masks.tif", TRUTH)
    write_labels(tmp_path / "found" / "a.tif", FOUND)
    write_labels(tmp_path / "found" / "<b>.tif", TRUTH)
    return tmp_path


def test_a_folder_is_evaluated_and_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "pages" / "report.html"
    argv = ["--truth", str(folder / "own"), "--pred", str(folder / "found")]
    assert main(["evaluate", *argv, "--report", str(out)]) == 0
    assert "competition score" in capsys.readouterr().out
    page = out.read_text(encoding="utf-8")
    for title in ("Score at each threshold", "against size", "against crowding", "Worst images"):
        assert title in page
    assert "<b>:" not in page
    assert "&lt;b&gt;: score 1.000" in page
    assert page.index("a: score") < page.index("&lt;b&gt;: score")  # the worst first
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    # the first picture is the truth of the worst image, coloured by what became of its cells
    first = base64.b64decode(re.findall(r"data:image/jpeg;base64,([^\"]+)", page)[0])
    picture = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    assert picture.shape == (*TRUTH.shape, 3)
    for row, column, kind in ((2, 15, MISSED), (2, 25, SPLIT), (20, 5, MERGED), (2, 5, HIT)):
        off = {k: abs(picture[row, column] - OUTCOME_COLOURS[k]).sum() for k in OUTCOME_COLOURS}
        assert min(off, key=lambda k: off[k]) == kind


def test_only_the_images_shown_are_read_again(folder: Path) -> None:
    result = evaluate(folder / "own", folder / "found")
    for path in (folder / "own" / "<b>_masks.tif", folder / "found" / "<b>.tif"):
        path.write_bytes(b"")
    write_report(result, folder / "report.html", pictures=1)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "1 of 2 images, the worst first" in page
    assert page.count("data:image/jpeg") == 2
    with pytest.raises(FlowsegError, match="<b>"):
        write_report(result, folder / "report.html", pictures=2)


def test_a_submission_is_reported_with_and_without_images(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_synthetic_sartorius(data, 3, 3, 1, (64, 96))
    pred = tmp_path / "s.csv"
    names = [path.stem for path in sorted((data / "test").iterdir())]
    write_submission(pred, ((name, np.pad([[1]], ((9, 54), (9, 86)))) for name in names))
    result = evaluate(data / TEST_TRUTH, pred)
    sizes = []
    for images in (None, data / "test"):
        write_report(result, tmp_path / "r.html", images=images)
        sizes.append((tmp_path / "r.html").stat().st_size)
    assert sizes[0] < sizes[1]
    with pytest.raises(FlowsegError, match="holds no image"):
        write_report(result, tmp_path / "x.html", images=data / "train")
    assert not (tmp_path / "x.html").exists()
