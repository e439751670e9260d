"""Pre-training: what it is reused for, which stage a run continues with, what is inherited."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.livecell import read_livecell
from flowseg.errors import FlowsegError
from flowseg.io.atomic import is_part
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.synthetic.datasets import write_synthetic_livecell
from flowseg.training import provenance, run_folder
from flowseg.training.plan import LIVECELL, Plan
from flowseg.training.pretraining import _key, inherit, pretrained
from flowseg.training.trainer import Trainer
from helpers.runs import differences
from helpers.training import CPU

SMALL = NetworkConfig(channels=(4, 8), blocks_per_level=1)


def plan_of(data: Path, *settings: str) -> Plan:
    return Plan(
        config=load_config("cort", overrides=settings),
        data=data,
        pretrain=LIVECELL,
        records=[],
        folds={},
        training=[],
        validation=[],
        extra=[],
    )


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Of a stage of two short epochs."""
    monkeypatch.setattr(provenance, "git_revision", lambda: None)  # someone may commit meanwhile
    write_synthetic_livecell(tmp_path / "data", 2, 1, 3, (64, 80))
    settings = ("network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=32")
    schedule = ("epochs=2", "crops_per_epoch=4", "batch_size=4", "precision=float32")
    return plan_of(tmp_path / "data", *settings, *(f"pretraining.{key}" for key in schedule))


def after_an_epoch(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once, when the first epoch of a training from now on has been saved."""
    finish_epoch, acts = Trainer.finish_epoch, [act]

    def finish(trainer: Trainer, *arguments: Any) -> None:
        finish_epoch(trainer, *arguments)
        if acts:
            acts.pop()()

    monkeypatch.setattr(Trainer, "finish_epoch", finish)


@pytest.mark.slow
def test_jobs_whose_locks_do_not_reach_each_other_share_the_stage(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a mounted bucket; another begins after the first and is done before it."""
    alone = pretrained(plan, tmp_path / "one" / "cv", CPU, "cv-fold0")
    monkeypatch.setattr(run_folder, "exclusive_lock", lambda *_, **__: nullcontext())
    others = []

    def another() -> None:
        others.append(pretrained(plan, tmp_path / "jobs" / "cv", CPU, "cv-fold1"))

    after_an_epoch(monkeypatch, another)
    last = pretrained(plan, tmp_path / "jobs" / "cv", CPU, "cv-fold0")
    assert others == [last] != [alone]
    assert differences(tmp_path / "one", tmp_path / "jobs") == []


@pytest.mark.slow
def test_the_stage_of_a_run_that_was_stopped_is_continued_by_another(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    pretrained(plan, tmp_path / "one" / "a", CPU)
    after_an_epoch(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        pretrained(plan, tmp_path / "two" / "a", CPU)
    caplog.set_level("INFO")
    pretrained(plan, tmp_path / "two" / "b", CPU)
    assert "resuming after epoch 1 of 2" in caplog.text
    pretrained(plan, tmp_path / "two" / "a", CPU)  # finds it, and clears up
    assert differences(tmp_path / "one", tmp_path / "two") == []


@pytest.mark.slow
def test_a_stage_whose_move_was_interrupted_is_moved_on(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained(plan, tmp_path / "one" / "a", CPU)
    rename, left = Path.replace, [2]

    def stopped(path: Path, target: Path) -> Path:
        if (
            "livecell-" in path.parent.name
            and path.parent.name[-1] == "a"
            and not is_part(path.name)
        ):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        pretrained(plan, tmp_path / "two" / "a", CPU)
    left[0] = 99
    pretrained(plan, tmp_path / "two" / "a", CPU)
    assert differences(tmp_path / "one", tmp_path / "two") == []


def test_weights_are_inherited_but_for_the_head_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    other = FlowNetwork(SMALL, 3, seed=1)
    save_network(
        path, other.state_dict(), Card(SMALL, {name: CellTypeSettings() for name in "abc"})
    )
    network = FlowNetwork(SMALL, 2, seed=2)
    head = network.type_head.weight.clone()
    inherit(network, path)
    assert torch.equal(network.stem.weight, other.stem.weight)
    assert torch.equal(network.type_head.weight, head)
    wider = FlowNetwork(replace(SMALL, channels=(4, 16)), 2)
    with pytest.raises(FlowsegError, match="another architecture"):
        inherit(wider, path)


def test_what_changes_the_pretraining_changes_its_key(tmp_path: Path) -> None:
    write_synthetic_livecell(tmp_path, 2, 1, 3, (64, 80))
    records = read_livecell(tmp_path)
    config, cpu = load_config(), torch.device("cpu")
    key = _key(config, records, cpu)
    same = ["training.epochs=3", "data.folds=3", "tta=1"]
    assert _key(load_config(overrides=same), records, cpu) == key
    for change in (
        "seed=1",
        "pretraining.epochs=3",
        "augment.flip=false",
        "network.blocks_per_level=3",
    ):
        assert _key(load_config(overrides=[change]), records, cpu) != key
    assert _key(config, records[:2], cpu) != key
    assert _key(config, records, torch.device("cuda")) != key


@pytest.mark.parametrize("name", ["last.safetensors", "fold0/last.safetensors"])
def test_a_run_continues_with_the_livecell_stage_it_started_from(tmp_path: Path, name: str) -> None:
    provenance = {"pretraining": "livecell-before/best.safetensors"}
    card = Card(SMALL, {"a": CellTypeSettings()}, provenance)
    last, stage = tmp_path / "run" / name, tmp_path / provenance["pretraining"]
    for path in (last, stage):
        path.parent.mkdir(parents=True)
    save_network(last, FlowNetwork(SMALL, 1).state_dict(), card)
    stage.write_bytes(b"")
    plan = plan_of(tmp_path / "no data")  # so that no other stage can be trained
    assert pretrained(plan, tmp_path / "run", CPU) == stage
    stage.unlink()
    with pytest.raises(FlowsegError, match="no data"):
        pretrained(plan, tmp_path / "run", CPU)
