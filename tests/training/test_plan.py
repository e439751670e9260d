"""What a training decides before it starts: diameters, network, folds, extra images."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowseg.arrays.rle import Masks
from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training.plan import measure_cells, plan_folds, plan_training

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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("competition")
    write_synthetic_sartorius(folder, 6, 0, 1, (96, 128), ("cort",))
    return folder


@pytest.mark.parametrize("recipe", [None, "gpu", "gpus"])
def test_a_start_brings_its_network_unless_another_is_asked_for(
    data: Path, tmp_path: Path, recipe: str | None
) -> None:
    start = tmp_path / "start.safetensors"
    weights = FlowNetwork(SMALL, 1).state_dict()
    save_network(start, weights, Card(SMALL, {"disc": CellTypeSettings(diameter=9)}))
    config = load_config("cort", recipe=recipe, overrides=["data.folds=2"])
    assert plan_training(config, data, str(start)).config.network == SMALL
    other = replace(config.network, channels=(8, 16))
    asked = replace(config, network=other)
    assert plan_training(asked, data, str(start)).config.network == other
    with pytest.raises(FlowsegError, match="no such checkpoint"):
        plan_training(asked, data, str(tmp_path / "none.safetensors"))


def test_the_plans_of_all_folds_are_those_of_each(data: Path) -> None:
    config = load_config("cort", overrides=["data.folds=3", "data.mask_repair=fix"])
    plans = pickle.loads(pickle.dumps(plan_folds(config, data)))
    assert len(plans) == 3
    for fold, plan in enumerate(plans):
        alone = plan_training(replace(config, data=replace(config.data, fold=fold)), data)
        assert plan.config == alone.config
        for name in ("training", "validation"):
            ids = [record.image_id for record in getattr(plan, name)]
            assert ids == [record.image_id for record in getattr(alone, name)]
    validated = [record.image_id for plan in plans for record in plan.validation]
    assert sorted(validated) == sorted(record.image_id for record in plans[0].records)


def test_a_crop_that_the_network_cannot_take_is_refused(data: Path) -> None:
    config = load_config("cort", overrides=["augment.crop_size=60"])
    with pytest.raises(FlowsegError, match=r"set augment\.crop_size=64"):
        plan_training(config, data)
