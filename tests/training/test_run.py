"""What a run decides before it trains: diameters, folds, what pre-training is reused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowseg.arrays.rle import Masks
from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.livecell import read_livecell
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.synthetic.datasets import write_synthetic_livecell
from flowseg.training.plan import _inherited, measure_cells
from flowseg.training.pretraining import _key, inherit
from flowseg.training.provenance import fingerprint

SMALL = NetworkConfig(channels=(4, 8), blocks_per_level=1)


def square(edge: int, name: str = "a", cell_type: str = "disc") -> Record:
    labels = np.zeros((40, 40), np.int32)
    labels[:edge, :edge] = 1
    return Record(
        image_id=name,
        image_path=Path(f"{name}.png"),
        shape=labels.shape,
        cell_type=cell_type,
        group=name,
        annotation=Masks.from_labels(labels),
    )


def test_unknown_diameters_are_measured_and_known_ones_kept() -> None:
    cells = {"disc": CellTypeSettings(), "other": CellTypeSettings(diameter=12.0)}
    measured = measure_cells(cells, [square(10), square(20, "b"), square(30, "c", "other")])
    mean = np.mean([2 * np.sqrt(area / np.pi) for area in (100, 400)])
    assert measured["disc"].diameter == pytest.approx(mean, abs=0.01)
    assert measured["other"].diameter == 12


def test_a_type_without_images_or_cells_is_an_error() -> None:
    with pytest.raises(FlowsegError, match="no image of cell type 'other'"):
        measure_cells({"other": CellTypeSettings()}, [square(10)])
    with pytest.raises(FlowsegError, match="hold no cell to measure"):
        measure_cells({"disc": CellTypeSettings()}, [square(0)])


def test_weights_areinherited_but_for_the_head_of_other_types(tmp_path: Path) -> None:
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


def test_thefingerprint_sees_every_annotation(tmp_path: Path) -> None:
    write_synthetic_livecell(tmp_path, 2, 1, 3, (64, 80))
    before = fingerprint(read_livecell(tmp_path))
    assert fingerprint(list(reversed(read_livecell(tmp_path)))) == before
    table = next((tmp_path / "LIVECell_dataset_2021/annotations/LIVECell").glob("*train.json"))
    text = table.read_text()
    first = text.index('"segmentation"')
    digit = next(i for i in range(first, len(text)) if text[i].isdigit())
    table.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    assert fingerprint(read_livecell(tmp_path)) != before


@pytest.mark.parametrize("machine", [None, "gpu", "gpus"])
def test_a_start_brings_its_network_unless_another_is_asked_for(
    tmp_path: Path, machine: str | None
) -> None:
    start = tmp_path / "start.safetensors"
    save_network(
        start,
        FlowNetwork(SMALL, 1).state_dict(),
        Card(SMALL, {"disc": CellTypeSettings(diameter=9)}),
    )
    assert _inherited(load_config(recipe=machine).network, start) == SMALL
    asked = load_config(recipe=machine, overrides=["network.channels=[8, 16]"]).network
    assert _inherited(asked, start) == asked
    with pytest.raises(FlowsegError, match="no such checkpoint"):
        _inherited(asked, tmp_path / "none.safetensors")
