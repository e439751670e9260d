"""The benchmark of accuracy, as far as it goes without Cellpose: folds, scores, its table."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flowseg.arrays.overlaps import masks_to_labels
from flowseg.config.loading import load_config, to_yaml
from flowseg.data.detect import read_records
from flowseg.data.folds import split_fold, write_folds
from flowseg.io.tables import read_table, write_table
from flowseg.metrics.competition import competition_score
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training.provenance import fingerprint

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CROPS = 2 * 12  # of 10 an epoch, in batches of 4


@pytest.fixture
def accuracy(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("accuracy")


def write_run(folder: Path, data: Path) -> dict[str, int]:
    """What the benchmark reads of a cross validation of 3 images, one of them only trained on."""
    overrides = (
        "data.folds=2",
        "training.crops_per_epoch=10",
        "training.batch_size=4",
        "training.epochs=2",
    )
    config = load_config("shsy5y", overrides=overrides)
    records = read_records(data, ("shsy5y",))
    fold_of = dict(zip([record.image_id for record in records], (0, 1, -1), strict=True))
    for fold in range(2):
        (folder / f"fold{fold}").mkdir(parents=True)
        epochs = pd.DataFrame(
            {"epoch": [1, 2], "seconds": [4.0, 3.0], "seconds_validating": [1.0, 0.0]}
        )
        write_table(folder / f"fold{fold}" / "metrics.csv", epochs)
    (folder / "fold0" / "config.yaml").write_text(to_yaml(config))
    (folder / "fold0" / "origin.json").write_text('{"pretrain": "none", "processes": 1}')
    (folder / "summary.json").write_text('{"tta": 2}')
    write_folds(folder / "fold0" / "folds.csv", records, fold_of)
    validated = [name for name, fold in fold_of.items() if fold >= 0]
    scores = pd.DataFrame({"id": validated, "score": 0.5, "calibrated_score": 0.75})
    write_table(folder / "out_of_fold.csv", scores)
    return fold_of


def write_single_run(folder: Path, run: Path) -> None:
    """What the benchmark reads of a run of fold 1, whose third epoch alone finds cells."""
    folder.mkdir()
    config = load_config(path=run / "fold0" / "config.yaml", overrides=["data.fold=1"])
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "folds.csv").write_bytes((run / "fold0" / "folds.csv").read_bytes())
    epochs = {"seconds": [5.0, 4.0, 6.0], "seconds_validating": [0.0, 1.0, 2.0]}
    write_table(folder / "metrics.csv", pd.DataFrame(epochs | {"score": ["", 0.0, 0.5]}))


def test_what_cellpose_has_predicted_is_scored_beside_ours(
    tmp_path: Path, accuracy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "out"
    write_synthetic_sartorius(data, 3, 0, 1, (96, 128), ("shsy5y",))
    fold_of = write_run(run, data)
    records = read_records(data, ("shsy5y",))
    training, (kept_back,) = split_fold(records, fold_of, 1)
    labels = masks_to_labels(kept_back.masks())
    (out / "fold1").mkdir(parents=True)
    np.save(out / "fold1" / f"{kept_back.image_id}.npy", labels)
    asked = {
        **{"ids": [record.image_id for record in training], "crops": CROPS, "seed": 42},
        **{"precision": "float32", "start": None, "device": "cpu"},
        "data": fingerprint(training),
        "told": {kept_back.image_id: load_config("shsy5y").cell_types["shsy5y"].diameter},
    }
    answer = {"crops": 24, "epochs": 12, "images": 2, "diameter": 17.0, "seconds": 48.0}
    learned = {"asked": asked, "version": "3.1.1.3", **answer}
    (out / "fold1" / "learned.json").write_text(json.dumps(learned))

    task = ["--data", str(data), "--run", str(run), "--out", str(out)]
    accuracy.main(task)
    text = capsys.readouterr().out
    assert "fold 0 of cellpose is left out" in text
    assert "24 crops a fold; 2 folds in 12 s, 4.00 crops/s; views averaged: 2" in text
    assert "in 48 s, 0.50 crops/s" in text
    (row,) = read_table(out / "scores.csv", ("id", "cellpose")).itertuples()
    assert row.id == kept_back.image_id
    assert float(row.cellpose) == competition_score(kept_back.masks(), labels)

    write_single_run(tmp_path / "single", run)
    accuracy.main([*task, "--until", str(tmp_path / "single")])
    assert "was not passed in" in capsys.readouterr().out

    np.save(out / "fold1" / f"{kept_back.image_id}.augmented.npy", np.zeros_like(labels))
    accuracy.main([*task, "--peer-augment"])
    (row,) = read_table(out / "scores.augmented.csv", ("id", "cellpose")).itertuples()
    assert float(row.cellpose) == 0
    accuracy.main([*task, "--peer-augment", "--until", str(tmp_path / "single")])
    # The third epoch passes 0; time of validation does not count.
    text = capsys.readouterr().out
    assert "0.0000 after 48 s" in text
    assert "after 12 s: 4.0 times sooner" in text

    with pytest.raises(SystemExit, match="learned in another way"):
        accuracy.main([*task, "--crops", "100"])


def test_table(accuracy: Any) -> None:
    images = [
        accuracy.Scores("a", "cort", 0, 0.4, 0.5, 0.3),
        accuracy.Scores("b", "cort", 1, 0.6, 0.5, 0.3),
        accuracy.Scores("c", "astro", 1, 0.2, 0.2, 0.3),
    ]
    _, astro, cort, every = accuracy.compare(images, ["shsy5y", "astro", "cort"])
    assert astro[:6] == ["astro", "1", "0.2000", "0.2000", "0.3000", "-0.1000"]
    assert astro[6:] == ["-0.1000 to -0.1000", "-0.1000", "-0.1000 to -0.1000"]
    assert cort[:6] == ["cort", "2", "0.5000", "0.5000", "0.3000", "+0.2000"]
    assert cort[6:] == ["+0.1000 to +0.3000", "+0.2000", "+0.2000 to +0.2000"]
    assert every[:3] == ["all", "3", "0.4000"]
