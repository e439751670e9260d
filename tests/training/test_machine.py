"""What is said of a machine, and the trial behind it."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from flowseg.arrays.jit import threads
from flowseg.cli import main
from flowseg.config.loading import load_config
from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.inference.segmenter import Prediction, ScaledPrediction, Segmenter
from flowseg.training import machine
from flowseg.training.machine import Trial, describe_machine, try_machine

SHAPE = (96, 128)
TINY = ("network.channels=[4,8]", "network.blocks_per_level=1", "augment.crop_size=32")


@pytest.fixture
def config() -> Config:
    return load_config("all", overrides=[*TINY, "training.batch_size=2"])


def values(text: str) -> dict[str, str]:
    rows = (line.split("  ", maxsplit=1) for line in text.splitlines())
    return {name: value.strip() for name, value in rows}


def test_a_machine(config: Config) -> None:
    rows = values(describe_machine(config, "cpu", seconds=0.1, shape=SHAPE))
    assert torch.__version__ in rows["software"]
    assert f"loops take {threads()}," in rows["cores"]
    assert rows["device"] == "cpu"
    assert rows["precision"].startswith(("bfloat16: the processor", "float32: the processor"))
    assert rows["training step"] == "2 crops of 32 px"
    assert rows["loader processes"] == "none: crops are made between steps"
    assert "images/s of 96 x 128" in rows["prediction"]
    for name in ("prediction", "optimiser steps", "crops prepared", "training"):
        assert float(rows[name].split()[0]) > 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_machine_with_a_card(config: Config) -> None:
    config = replace(config, training=replace(config.training, workers=2))
    rows = values(describe_machine(config, "cuda", seconds=0.1, shape=SHAPE))
    assert torch.cuda.get_device_name() in rows["device"]
    assert rows["loader processes"] == "2"
    for name in ("prediction", "optimiser steps", "crops prepared", "training"):
        assert float(rows[name].split()[0]) > 0


@pytest.mark.slow
def test_loader_processes_prepare_crops(config: Config) -> None:
    trial = try_machine(config, torch.device("cpu"), 1, 0.1, SHAPE)
    assert trial.training_crops == min(trial.step_crops, trial.loader_crops) > 0


def test_one_process_makes_crops_and_steps_in_turn() -> None:
    trial = Trial(images=1, step_crops=30, loader_crops=60, processes=0)
    assert trial.training_crops == pytest.approx(20)


def test_the_cells_that_are_followed_are_those_drawn(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    real = machine.postprocess

    def counted(segmenter: Segmenter, predicted: ScaledPrediction) -> Prediction:
        result = real(segmenter, predicted)
        found.append(int(result.labels.max()))
        return result

    drawn: dict[str, int] = {}
    real_maps = machine._drawn_maps

    def noted(record: machine.Record) -> torch.Tensor:
        drawn[record.image_id] = len(record.masks())
        return real_maps(record)

    monkeypatch.setattr(machine, "postprocess", counted)
    monkeypatch.setattr(machine, "_drawn_maps", noted)
    try_machine(config, torch.device("cpu"), 0, 0.1, SHAPE)
    rounds, rest = divmod(len(found), len(drawn))
    assert (rounds >= 2, rest) == (True, 0)  # the first warms up
    # Tiny instances are left out, and noise may part a cell.
    assert sum(found) / rounds == pytest.approx(sum(drawn.values()), rel=0.3)


def test_problems_are_listed(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpu_problems", lambda: ["the card is wet"])
    monkeypatch.setattr(machine, "keeps_machine_code", lambda: False)
    text = describe_machine(config, "cpu", seconds=0.0, shape=SHAPE)
    assert "problem           the card is wet" in text
    assert "set NUMBA_CACHE_DIR" in text
    assert "none found" not in text


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="Windows has no load average")
@pytest.mark.parametrize(("load", "count"), [(0.9, 0), (1.1, 1)])
def test_a_busy_machine_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, load: float, count: int
) -> None:
    monkeypatch.setattr(machine, "gpu_problems", list)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0))
    problems = machine._problems()
    assert len(problems) == count
    assert all("1.1 of 4 cores busy" in problem for problem in problems)


def test_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA T4", major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 2**29, 2**34))
    expected = "cuda:1: NVIDIA T4, 16.0 GiB, 1.5 GiB free, compute capability 7.5"
    assert machine._device(torch.device("cuda:1")) == expected


def test_a_missing_device_is_named_before_any_work(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FlowsegError, match="'cuda' was asked for"):
        describe_machine(config, "cuda")


@pytest.mark.parametrize(
    ("options", "device"), [(["--device"], "auto"), (["--device", "cpu"], "cpu")]
)
def test_the_command(
    options: list[str],
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def described(config: Config, name: str) -> str:
        return f"{name} with {len(config.cell_types)} cell types"

    monkeypatch.setattr(machine, "describe_machine", described)
    assert main(["info", *options]) == 0
    assert capsys.readouterr().out == f"{device} with 3 cell types\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments RUN_OR_MODEL --device is required"),
        (["run", "--device", "cpu"], "--device: not allowed with argument RUN_OR_MODEL"),
    ],
)
def test_a_path_or_the_machine(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["info", *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
