"""The report on a data set."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from flowseg.cli import main
from flowseg.errors import FlowsegError
from flowseg.io.images import write_image, write_labels
from flowseg.reports.dataset_report import explore
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius

pytestmark = pytest.mark.slow

HOSTILE = "a<img src=x onerror=alert(1)>&'\" b"


def lacks_the_outside(page: str) -> None:
    """Nothing is fetched: no address but those of inlined pictures."""
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert not re.findall(r"url\((?!#)", page)
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_competition_livecell_and_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_synthetic_sartorius(tmp_path / "c", 9, 1, 1, (64, 96))
    write_synthetic_livecell(tmp_path / "l", 2, 1, 2, (64, 96))
    own = tmp_path / "my cells"
    own.mkdir()
    for name in ("x", "y"):
        labels = np.zeros((30, 40), np.int32)
        labels[3:20, 5:20] = 1
        write_image(own / f"{name}.png", labels.astype(np.uint8) * 90)
        write_labels(own / f"{name}_masks.tif", labels)
    for name, images in (("c", 9), ("l", 3), ("my cells", 2)):
        out = tmp_path / "pages" / f"{name}.html"
        assert main(["explore", "--data", str(tmp_path / name), "--out", str(out)]) == 0
        assert f"{images} images, " in capsys.readouterr().out
        page = out.read_text(encoding="utf-8")
        lacks_the_outside(page)
        for part in (
            "Overview",
            "Distributions",
            "Samples",
            "Plates and wells",
            "Folds",
            "Flagged",
        ):
            assert f"<h2>{part}" in page
        before = out.read_bytes()
        explore(tmp_path / name, out)
        assert out.read_bytes() == before


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    write_synthetic_sartorius(tmp_path / "c", 4, 1, 1, (64, 96))
    table = (tmp_path / "c" / "train.csv").read_text().splitlines()
    first = table[1].split(",")[0]
    table = [line.replace(first, "ce5d0de993bd") for line in table]
    (tmp_path / "c" / "train.csv").write_text("\n".join(table) + "\n")
    images = tmp_path / "c" / "train"
    (images / f"{first}.png").rename(images / "ce5d0de993bd.png")
    write_synthetic_livecell(tmp_path / "l", 2, 2, 2, (64, 96))
    folder = tmp_path / "l" / "LIVECell_dataset_2021" / "annotations" / "LIVECell"
    training = json.loads((folder / "livecell_coco_train.json").read_text())
    again = training["images"][0]
    training["images"].append({**again, "id": 77})
    (folder / "livecell_coco_train.json").write_text(json.dumps(training))
    for name, told in (
        ("c", ["left out of training", "ce5d0de993bd"]),
        ("l", ["list an image again", Path(again["file_name"]).stem]),
    ):
        explore(tmp_path / name, tmp_path / "page.html")
        section = (tmp_path / "page.html").read_text(encoding="utf-8").split('id="left-out"')[1]
        assert all(text in section.split("</section>")[0] for text in told)


def test_names_are_escaped(tmp_path: Path) -> None:
    write_image(tmp_path / f"{HOSTILE}.png", np.zeros((30, 40), np.uint8))
    labels = np.zeros((30, 40), np.int32)
    labels[3:9, 5:20] = 1
    labels[5, 7] = 0
    write_labels(tmp_path / f"{HOSTILE}_masks.tif", labels)
    explore(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "onerror" in page
    assert "<img src=x" not in page
    lacks_the_outside(page)


def test_where_the_page_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match=r"is a folder; name a file"):
        explore(tmp_path, tmp_path)
    with pytest.raises(FlowsegError, match="is no folder"):
        explore(tmp_path / "none", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
