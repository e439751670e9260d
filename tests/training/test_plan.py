"""What a training decides before it starts: diameters, network, folds, extra images."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flowseg.arrays.rle import Masks
from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.io.images import write_image, write_labels
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius
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


def write_folder(folder: Path, *names: str) -> Path:
    labels = np.zeros((40, 40), np.int32)
    labels[5:20, 5:20] = 1
    folder.mkdir()
    for name in names:
        write_image(folder / f"{name}.tif", (labels * 90).astype(np.uint8))
        write_labels(folder / f"{name}_masks.tif", labels)
    return folder


def test_frames_of_a_movie_are_not_on_both_sides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config("cell", overrides=["data.folds=5"])
    movies = [f"{movie}_t{frame}" for movie in "abc" for frame in range(3)]
    with caplog.at_level(logging.INFO):
        plans = plan_folds(config, write_folder(tmp_path / "movies", *movies))
    assert "3 groups of images make 3 folds, not 5" in caplog.text
    for plan in plans:
        sides = [{r.image_id[0] for r in records} for records in (plan.training, plan.validation)]
        assert len(plan.validation) == 3
        assert not sides[0] & sides[1]
    # one movie alone is divided, and said
    plans = plan_folds(config, write_folder(tmp_path / "movie", *movies[:3]))
    assert [len(plan.validation) for plan in plans] == [1, 1, 1]
    assert "all images are of one movie, picture or well (a)" in caplog.text


def test_livecell_as_data_of_ones_own_makes_as_many_folds_as_wells(tmp_path: Path) -> None:
    write_synthetic_livecell(tmp_path, 6, 2, 1, (64, 80))
    config = replace(load_config("livecell"), cell_types={"shsy5y": CellTypeSettings()})
    plans = plan_folds(config, tmp_path)
    assert len(plans) == len({record.group for record in plans[0].records}) == 4


def test_extra_images_of_validated_wells_are_left_out(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(data / "train.csv").drop_duplicates("id")
    names = [
        sample.replace("_Ph_1", f"_2020-11-04_13h30m00s_Ph_{2 + k % 3}")
        for k, sample in enumerate(table["sample_id"])
    ]
    extra = write_folder(tmp_path / "extra", *dict.fromkeys(names), "of_elsewhere")
    (extra / "cell_types.csv").write_text(
        "id,cell_type\n" + "".join(f"{name},cort\n" for name in [*names, "of_elsewhere"])
    )
    overrides = ["data.folds=2", f"data.extra={extra}"]
    plan = plan_training(load_config("cort", overrides=overrides), data)
    wells = {record.group for record in plan.validation}
    assert wells
    assert "of_elsewhere" in {record.image_id for record in plan.extra}
    assert not wells & {record.group for record in plan.extra}
    assert "extra images are left out, their well, movie or picture is validated" in caplog.text
    overrides.append("data.extra_of_validated_wells=true")
    taken = plan_training(load_config("cort", overrides=overrides), data).extra
    assert len(taken) > len(plan.extra)
    assert "validated: scores are flattered" in caplog.text


def test_a_crop_that_the_network_cannot_take_is_refused(data: Path) -> None:
    config = load_config("cort", overrides=["augment.crop_size=60"])
    with pytest.raises(FlowsegError, match=r"set augment\.crop_size=64"):
        plan_training(config, data)
