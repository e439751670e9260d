"""Checkpoints: what is written is read; what is damaged is refused by name."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import (
    Card,
    load_network,
    read_card,
    read_tensors,
    save_network,
    save_tensors,
)
from flowseg.network.unet import FlowNetwork

CARD = Card(
    NetworkConfig(channels=(4, 8), blocks_per_level=1),
    {
        "shsy5y": CellTypeSettings(diameter=17.0),
        "astro": CellTypeSettings(diameter=34.0, min_size=40),
    },
    {"validation_score": 0.25},
)


@pytest.fixture
def network() -> FlowNetwork:
    return FlowNetwork(CARD.network, len(CARD.cell_types), seed=1)


def test_round_trip(tmp_path: Path, network: FlowNetwork) -> None:
    path = tmp_path / "best.safetensors"
    save_network(path, network.state_dict(), CARD)
    loaded, card = load_network(path)
    assert card == CARD
    assert read_card(path) == CARD
    assert list(card.cell_types) == ["shsy5y", "astro"]
    assert not loaded.training
    image = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for one, other in zip(network.eval()(image), loaded(image), strict=True):
        assert torch.equal(one, other)


def test_same_bytes_and_nothing_else_in_the_folder(tmp_path: Path, network: FlowNetwork) -> None:
    for name in ("a", "b"):
        save_network(tmp_path / name, network.state_dict(), CARD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_tensors_that_share_memory_are_kept(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    save_tensors(tmp_path / "t", {"whole": whole, "half": whole[::2]}, "text")
    tensors, text = read_tensors(tmp_path / "t")
    assert text == "text"
    assert tensors["half"].tolist() == [0, 2, 4]


def damaged(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    return path


def test_damage_is_one_line_with_the_file(tmp_path: Path, network: FlowNetwork) -> None:
    path = tmp_path / "best.safetensors"
    save_network(path, network.state_dict(), CARD)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-10], b"\xff" * 200, pickle.dumps({"a": 1})):
        with pytest.raises(FlowsegError) as caught:
            load_network(damaged(tmp_path, content))
        assert "damaged.safetensors" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match="no such checkpoint"):
        load_network(tmp_path / "none.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(FlowsegError, match="without a flowseg card"):
        load_network(foreign)


@pytest.mark.parametrize(
    "change",
    [
        {"format": None},
        {"cell_types": 3},
        {"network": {"channels": "x"}},
        {"network": {"chanels": [4, 8]}},
        {"cell_types": {"a": {"diameter": -1}}},
        {"cell_types": {}},
        {"network": {"channels": [10**30, 4], "blocks_per_level": 1}},
        {"network": {"channels": [4, 8], "blocks_per_level": 10**9}},
        {"network": {"channels": [4] * 1000, "blocks_per_level": 1}},
    ],
)
def test_damaged_cards(tmp_path: Path, network: FlowNetwork, change: dict[str, object]) -> None:
    content = json.loads(CARD.to_json()) | change
    path = tmp_path / "best.safetensors"
    save_tensors(path, network.state_dict(), json.dumps(content))
    with pytest.raises(FlowsegError, match=r"best\.safetensors"):
        load_network(path)


def test_a_card_that_claims_more_than_the_file_holds(tmp_path: Path, network: FlowNetwork) -> None:
    """These weights would be 19 GB; the shapes are compared before memory is taken."""
    content = json.loads(CARD.to_json()) | {
        "network": {"channels": [8192] * 8, "blocks_per_level": 64}
    }
    path = tmp_path / "best.safetensors"
    save_tensors(path, network.state_dict(), json.dumps(content))
    with pytest.raises(FlowsegError, match=r"best\.safetensors: its weights do not fit"):
        load_network(path)


def test_a_card_of_flowseg_0_1_0(tmp_path: Path) -> None:
    """Revision 6d75199 wrote this text; the settings had other names."""
    text = (
        '{"format": 1, "flowseg": "0.1.0", "network": {"channels": [4, 8], "blocks": 1, '
        '"flow_scale": 5.0, "diameter": 25.0}, "cells": {"cort": {"diameter": 17.5, '
        '"cellprob_threshold": 0.0, "flow_threshold": 0.4, "min_size": 15}}, "provenance": '
        '{"settings": {"views": 4}, "stage": "training", "validation_score": 0.0}}'
    )
    config = NetworkConfig(channels=(4, 8), blocks_per_level=1, stem_stride=1, target_diameter=25.0)
    network = FlowNetwork(config, 1, seed=1)
    path = tmp_path / "best.safetensors"
    save_tensors(path, network.state_dict(), text)
    loaded, card = load_network(path)
    assert loaded.config == card.network == config
    assert card.cell_types == {"cort": CellTypeSettings(diameter=17.5)}


def test_a_later_format_asks_for_a_newer_flowseg(tmp_path: Path, network: FlowNetwork) -> None:
    content = json.loads(CARD.to_json()) | {"format": 99}
    path = tmp_path / "best.safetensors"
    save_tensors(path, network.state_dict(), json.dumps(content))
    with pytest.raises(FlowsegError, match="format 99"):
        read_card(path)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, network: FlowNetwork) -> None:
    weights = network.state_dict()
    weights["stem.weight"] = torch.zeros(5, 1, 6, 6)
    weights["extra"] = weights.pop("head.bias")
    save_network(tmp_path / "w.safetensors", weights, CARD)
    with pytest.raises(FlowsegError) as caught:
        load_network(tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "head.bias: missing" in message
    assert "extra: unexpected" in message
    assert "stem.weight: (5, 1, 6, 6) -> (4, 1, 6, 6)" in message


def test_a_header_of_any_length_is_that_of_a_checkpoint(
    tmp_path: Path, network: FlowNetwork
) -> None:
    """The length comes first in the file, and its bytes may be those of another format."""
    path = tmp_path / "best.safetensors"
    lengths = set()
    for size in range(0, 300, 8):
        save_network(path, network.state_dict(), replace(CARD, provenance={"note": "x" * size}))
        lengths.add(path.read_bytes()[0])
        assert read_card(path).provenance["note"] == "x" * size
    assert 0x80 in lengths


@pytest.mark.slow
def test_reading_loads_no_compiler() -> None:
    """It takes two seconds, and Triton's LLVM crashes beside that of a window's OpenGL."""
    code = (
        "import sys; from flowseg.network.checkpoint import load_network; load_network('phase')\n"
        "sys.exit(str({'torch._dynamo', 'triton'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
