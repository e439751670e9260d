"""What of a prediction fits into the time that there is, and images that cannot be read."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from flowseg.cli import main
from flowseg.errors import FlowsegError
from flowseg.inference.options import SegmentOptions
from flowseg.io.images import write_image
from flowseg.prediction import timing
from flowseg.prediction.timing import (
    Effort,
    Pace,
    fit_effort,
    seconds_per_image,
    within_time_budget,
)
from helpers.runs import save_wild_network

FULL = Effort(models=3, tta=4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_wild_network(tmp_path / "wild.safetensors")
    return tmp_path / "wild.safetensors"


def test_views_go_before_models() -> None:
    efforts = [fit_effort(FULL, 100, budget) for budget in (1e6, 1100, 600, 360, 250, 120, 1)]
    assert efforts == [
        *(Effort(3, 4), Effort(3, 2), Effort(3, 1), Effort(3, 1), Effort(2, 1), Effort(1, 1)),
        Effort(1, 1),
    ]


def test_a_resumed_prediction_makes_the_same_choice(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, files, speeds = tmp_path / "out.csv", [tmp_path / "a.png"] * 10, iter([1.0, 50.0])
    monkeypatch.setattr(timing, "seconds_per_image", lambda *_: next(speeds))

    def choose(*, fails: bool) -> tuple[int, int]:
        with within_time_budget([model] * 2, files, out, 60.0, tta=8) as (models, tta):
            if fails:
                raise FlowsegError("the disk is full")
        return len(models), tta

    with pytest.raises(FlowsegError, match="the disk is full"):
        choose(fails=True)
    assert choose(fails=False) == (2, 2)
    assert [path.name for path in tmp_path.iterdir()] == [model.name], "nothing is left"
    assert choose(fails=False) == (1, 1)  # a new one, on a slower machine


@pytest.mark.slow
def test_the_time_is_measured_on_images_that_can_be_read(model: Path, tmp_path: Path) -> None:
    broken, good = tmp_path / "a.png", tmp_path / "b.png"
    broken.write_bytes(b"nonsense")
    write_image(good, np.zeros((40, 50), np.uint8))
    assert 0 < seconds_per_image(model, [broken, good, good], "cpu", SegmentOptions()) < 60
    with pytest.raises(FlowsegError, match=r"a\.png"):
        seconds_per_image(model, [broken], "cpu", SegmentOptions())


def test_the_pace_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pace = Pace(240)
    with caplog.at_level(logging.INFO):
        for _ in range(30):
            pace.count()
    assert len(caplog.messages) == 1
    assert "240 images take" in caplog.messages[0]


@pytest.mark.slow
def test_images_that_fail_are_blank_if_asked(
    model: Path, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out.csv"
    folder.mkdir()
    for name in "ac":
        write_image(folder / f"{name}.png", rng.integers(0, 255, (40, 50), np.uint8))
    (folder / "b.png").write_bytes(b"nonsense")
    argv = ["predict", "--in", str(folder), "--out", str(out), "--model", str(model)]
    argv += ["--device", "cpu", "--cells", str(tmp_path / "cells.csv")]
    assert main(argv) == 1
    assert "\nb," not in out.read_text()
    assert main([*argv, "--blank-failed", "--time-budget", "1h"]) == 0
    assert "images that failed, with a blank row: 1" in capsys.readouterr().out
    lines = out.read_text().splitlines()
    assert "b," in lines
    assert [line[0] for line in dict.fromkeys(line.split(",")[0] for line in lines[1:])] == [*"abc"]
    assert "\nb," not in (tmp_path / "cells.csv").read_text()
    assert main([*argv, "--shard", "1/2", "--time-budget", "1h"]) == 2
    assert main([*argv, "--dask", "tcp://127.0.0.1:9", "--time-budget", "1h"]) == 2
