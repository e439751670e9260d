"""The benchmark of few images draws them fairly, and does nothing twice."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from flowseg.data.detect import read_records
from flowseg.io.tables import read_table
from flowseg.synthetic.datasets import write_synthetic_sartorius

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("few_images")


def test_draws_hold_the_cell_types_in_turn_and_the_smaller_draws(
    few_images: Any, tmp_path: Path
) -> None:
    write_synthetic_sartorius(tmp_path, 9, 0, 1, (96, 128), ("shsy5y", "astro", "cort"))
    records = read_records(tmp_path, ("shsy5y", "astro", "cort"))
    drawn = few_images.draw(records, 7, seed=1)
    assert few_images.draw(records[::-1], 3, seed=1) == drawn[:3]
    assert {record.cell_type for record in drawn[:3]} == {"shsy5y", "astro", "cort"}
    assert len({record.image_id for record in drawn}) == 7
    assert few_images.draw(records, 7, seed=2) != drawn


@pytest.mark.slow
def test_the_curve(few_images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_synthetic_sartorius(data, 12, 0, 1, (96, 128), ("shsy5y", "astro", "cort"))
    monkeypatch.setattr(few_images, "EPOCH", 8)
    task = ["--data", str(data), "--out", str(out), "--images", "0", "1", "--draws", "1"]
    task += ["--start", "phase", "--epochs", "1"]
    few_images.main(task)
    rows = read_table(out / "curve.csv", ("side", "images", "all"))
    assert rows["images"].tolist() == ["0", "1"]
    assert (out / "curve.png").is_file()
    (out / "flowseg-phase-1-0" / "best.safetensors").unlink()
    few_images.main(task)  # from what is kept
    assert read_table(out / "curve.csv", ("all",))["all"].tolist() == rows["all"].tolist()
