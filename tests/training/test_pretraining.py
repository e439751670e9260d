"""Pre-training: what it is reused for, which stage a run continues with, what is inherited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.livecell import read_livecell
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.synthetic.datasets import write_synthetic_livecell
from flowseg.training.plan import LIVECELL, Plan
from flowseg.training.pretraining import _key, inherit, pretrained
from helpers.training import CPU

SMALL = NetworkConfig(channels=(4, 8), blocks_per_level=1)


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
    plan = Plan(
        config=load_config("cort"),
        data=tmp_path / "no data",  # so that no other stage can be trained
        pretrain=LIVECELL,
        records=[],
        folds={},
        training=[],
        validation=[],
        extra=[],
    )
    assert pretrained(plan, tmp_path / "run", CPU) == stage
    stage.unlink()
    with pytest.raises(FlowsegError, match="no data"):
        pretrained(plan, tmp_path / "run", CPU)
