"""A folder of one's own images, all the way: look, train, predict, evaluate, export, info."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from flowseg.arrays.overlaps import masks_to_labels
from flowseg.cli import build_parser, main
from flowseg.cli.export import parse_outputs
from flowseg.data.sartorius import read_sartorius
from flowseg.io.images import write_image, write_labels
from flowseg.io.paths import find_images
from flowseg.synthetic.datasets import write_synthetic_sartorius

pytestmark = pytest.mark.slow

TINY = [
    *(
        "--set",
        "augment.crop_size=64",
        "--set",
        "training.crops_per_epoch=8",
        "--set",
        "training.batch_size=4",
    ),
    *("--device", "cpu", "--epochs", "1"),
]
SMALL = ["--set", "network.channels=[4, 8]", "--set", "network.blocks_per_level=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images and their labels, `cells`, and one image without."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_sartorius(home / "drawn", 3, 1, 1, (96, 128))
    (home / "cells").mkdir()
    for record in read_sartorius(home / "drawn"):
        image = home / "cells" / f"{record.image_id}.tif"
        write_image(image, record.image().astype("uint16") * 200)
        write_labels(image.with_name(f"{image.stem}_masks.tif"), masks_to_labels(record.masks()))
    write_image(home / "cells" / "bare.tif", record.image().astype("uint8"))
    return home


def run(*argv: str | Path) -> None:
    assert main([str(word) for word in argv]) == 0


def test_the_whole_way(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    run("explore", "--data", "cells", "--out", "cell_types.html")
    run("train", "--data", "cells", *SMALL, *TINY)
    folds = pd.read_csv("runs/cell-fold0/folds.csv", dtype={"id": str})
    assert set(folds["cell_type"]) == {"cell"}
    assert sorted(folds["fold"]) == [0, 1, 2]  # three images make three folds, not five
    # fine-tuning takes the network of the run it starts from
    run("train", "--data", "cells", "--pretrain", "runs/cell-fold0", "--out", "runs/tuned", *TINY)
    capsys.readouterr()
    run("info", "runs/tuned")
    text = capsys.readouterr().out
    assert "channels 4, 8" in text
    assert "finished: training" in text
    assert "validation images  1\n" in text
    assert Path("runs/tuned/curves.png").is_file()
    some = ["--flow-threshold", "0", "--cellprob-threshold", "-2", "--device", "cpu"]
    run("predict", "--in", "cells", "--out", "cell_types.csv", "--save-labels", "found", *some)
    names = {path.stem for path in find_images("found")}
    assert names == {*folds["id"], "bare"}
    Path("found/bare.tif").unlink()
    run("evaluate", "--truth", "cells", "--pred", "found", "--report", "scores.html")
    assert "data:image/jpeg" in Path("scores.html").read_text()
    run("export", "--labels", "found", "--images", "cells", "--coco", "c.json", "--cells", "c.csv")
    cells = json.loads(Path("c.json").read_text())
    assert {Path(image["file_name"]).stem for image in cells["images"]} == set(folds["id"])
    assert {Path(image["file_name"]).suffix for image in cells["images"]} == {".tif"}
    assert len(cells["annotations"]) == len(pd.read_csv("c.csv"))


def test_one_image_is_too_few(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = sorted((home / "cells").glob("*_masks.tif"))[0]
    for name in (labels.name, labels.name.replace("_masks", "")):
        (tmp_path / name).write_bytes((home / "cells" / name).read_bytes())
    argv = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), *SMALL, *TINY]
    assert main(argv) == 2
    assert "there is one image with labels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_cell_types_of_the_competition_do_not_fit(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(home / "cells"), "--cell-type", "all"]) == 2
    assert "holds images of one cell type" in capsys.readouterr().err
    assert main(["train", "--data", str(home / "drawn"), "--cell-type", "cell"]) == 2
    assert "unknown cell type 'cell'" in capsys.readouterr().err


def test_predict_and_export_have_the_same_output_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        *("--save-labels", "a", "--labels-format", "zarr", "--label-tiff", "b", "--rois", "c"),
        *("--seg-npy", "d", "--coco", "e.json", "--cells", "f.csv"),
    ]
    predicted = parse_outputs(build_parser().parse_args(["predict", "--in", "x", *words]))
    exported = parse_outputs(build_parser().parse_args(["export", "--labels", "x", *words]))
    assert predicted == replace(exported, submission=Path("submission.csv"))
    assert len(exported.paths) == 6
    assert exported.collected() == {"coco": Path("e.json"), "cells": Path("f.csv")}
    assert exported.files("n")["labels"] == Path("a/n.zarr")
    for option in ("--overlays", "--fields", "--disagreement"):
        build_parser().parse_args(["predict", "--in", "x", option, "y"])
        with pytest.raises(SystemExit):
            main(["export", "--labels", "x", option, "y"])
        assert "unrecognized arguments" in capsys.readouterr().err
