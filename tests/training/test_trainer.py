"""A stage learns, can be stopped and resumed, and leaves what it promises."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import load_network, read_card, read_tensors, save_tensors
from flowseg.network.unet import FlowNetwork
from flowseg.training import trainer
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage
from helpers.training import CELLS, CONFIG, CPU, in_folder, network

pytestmark = pytest.mark.slow


def test_a_stage_leaves_its_files(stage: Stage) -> None:
    result = train_stage(stage, network(), CPU, resume=False)
    names = sorted(path.name for path in stage.folder.iterdir())
    assert names == ["best.safetensors", "last.safetensors", "metrics.csv", "state.safetensors"]
    table = pd.read_csv(stage.folder / "metrics.csv")
    assert table["epoch"].tolist() == [1, 2, 3]
    for column in ("learning_rate", "seconds", "loss_flows", "loss_cellprob", "score_disc"):
        assert np.isfinite(table[column]).all()
    np.testing.assert_allclose(table["score"], (table["score_disc"] + table["score_other"]) / 2)
    assert result.score == table["score"].max()
    card = read_card(stage.folder / "best.safetensors")
    assert card.cell_types == CELLS
    assert card.provenance["epoch"] == result.epoch
    assert card.provenance["from"] == "a test"


def test_learns_to_find_discs(stage: Stage) -> None:
    schedule = replace(
        CONFIG.training, epochs=6, crops_per_epoch=96, learning_rate=5e-3, validate_every=5
    )
    config = replace(
        CONFIG, training=schedule, network=replace(CONFIG.network, channels=(8, 16, 32))
    )
    start = FlowNetwork(config.network, len(CELLS), 1)
    result = train_stage(replace(stage, config=config, schedule=schedule), start, CPU, resume=False)
    table = pd.read_csv(stage.folder / "metrics.csv")
    assert table["score"].notna().tolist() == [False] * 4 + [True, True]
    assert result.score > 0.5


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "state.safetensors")[0]


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("place", ["save_network", "write_table", "write_state"])
@pytest.mark.parametrize("call", [1, 2])
def test_resumed_equals_undisturbed(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, call: int
) -> None:
    whole = in_folder(stage, tmp_path / "whole")
    train_stage(whole, network(), CPU, resume=False)
    calls = 0
    original = getattr(trainer, place)

    def dying(*args: object, **kwargs: object) -> None:
        nonlocal calls
        if calls == call:
            raise KilledError
        calls += 1
        original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, place, dying)
        with pytest.raises(KilledError):
            train_stage(stage, network(), CPU, resume=False)
    train_stage(stage, network(99), CPU, resume=True)
    expected, found = tensors_of(whole.folder), tensors_of(stage.folder)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    for name in ("best.safetensors", "last.safetensors"):
        assert (whole.folder / name).read_bytes() == (stage.folder / name).read_bytes()


def test_two_runs_are_equal_and_the_seed_matters(stage: Stage, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (1, 1, 2), strict=True):
        seeded = replace(in_folder(stage, folder), config=replace(CONFIG, seed=seed))
        train_stage(seeded, network(), CPU, resume=False)
    best = [(folder / "last.safetensors").read_bytes() for folder in folders]
    assert best[0] == best[1] != best[2]


def test_a_translated_network_learns_the_same(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is traced runs as it stands: the C++ compiler is torch's own matter.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    schedule = replace(CONFIG.training, epochs=1)
    for name, compiled in (("plain", False), ("translated", True)):
        own = replace(schedule, compile=compiled)
        train_stage(
            replace(in_folder(stage, tmp_path / name), schedule=own), network(), CPU, resume=False
        )
    expected, found = tensors_of(tmp_path / "plain"), tensors_of(tmp_path / "translated")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_state_for_which_there_is_no_memory_is_not_called_foreign(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    train_stage(stage, network(), CPU, resume=False)
    monkeypatch.setattr(trainer.MuonAdamW, "load_state_dict", fail)
    with pytest.raises(FlowsegError, match="there is not enough memory"):
        train_stage(stage, network(), CPU, resume=True)


def test_a_foreign_state_is_refused(stage: Stage, tmp_path: Path) -> None:
    train_stage(stage, network(), CPU, resume=False)
    other = FlowNetwork(replace(CONFIG.network, channels=(4, 6)), len(CELLS), 1)
    with pytest.raises(FlowsegError, match="does not fit this run"):
        train_stage(stage, other, CPU, resume=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rows", [1, 2]),
        ("rows", 3),
        ("epoch", None),
        ("optimiser/adamw/999/step", 1),
        ("adamw.0.step", 1),
    ],
)
def test_a_damaged_state_is_refused(stage: Stage, key: str, value: object) -> None:
    train_stage(stage, network(), CPU, resume=False)
    path = stage.folder / "state.safetensors"
    tensors, text = read_tensors(path)
    counters = json.loads(text or "")
    if key in counters:
        counters[key] = value
    else:
        tensors[key] = torch.zeros(3)
    if value is None:
        counters.pop(key, None)
    save_tensors(path, tensors, json.dumps(counters))
    with pytest.raises(FlowsegError, match="does not fit this run"):
        train_stage(stage, network(), CPU, resume=True)


def test_the_state_of_an_earlier_format_is_refused(stage: Stage) -> None:
    train_stage(stage, network(), CPU, resume=False)
    path = stage.folder / "state.safetensors"
    tensors, text = read_tensors(path)
    save_tensors(path, {key.replace("/", "."): tensors[key] for key in tensors}, text or "")
    with pytest.raises(FlowsegError, match="does not fit this run; start over in another --out"):
        train_stage(stage, network(), CPU, resume=True)


def test_the_progress_bar_shows_a_score_once_there_is_one(stage: Stage) -> None:
    running = trainer.Trainer(stage, network(), CPU)
    running.rows = [{"loss": 0.5}]
    assert running.progress() == {"loss": "0.500"}
    running.rows += [{"loss": 0.4, "score": 0.1}, {"loss": 0.3}]
    running.best_score = 0.2
    assert running.progress() == {"loss": "0.300", "score": "0.100", "best": "0.200"}


def test_without_validation_the_last_weights_are_the_best(stage: Stage) -> None:
    result = train_stage(replace(stage, validation=[]), network(), CPU, resume=False)
    assert np.isnan(result.score)
    best, _ = load_network(stage.folder / "best.safetensors")
    last, _ = load_network(stage.folder / "last.safetensors")
    for one, other in zip(best.state_dict().values(), last.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    card = read_card(stage.folder / "last.safetensors")
    assert card.provenance["validation_score"] is None
    json.dumps(dict(card.provenance), allow_nan=False)


def test_a_diverging_loss_stops_with_advice(stage: Stage) -> None:
    schedule = replace(CONFIG.training, learning_rate=1e30)
    with pytest.raises(FlowsegError, match=r"lower training\.learning_rate"):
        train_stage(replace(stage, schedule=schedule), network(), CPU, resume=False)
