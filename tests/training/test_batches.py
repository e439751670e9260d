"""Loader processes: what they report, and how they are started."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch

import flowseg
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.training.batches import CropDataset, batches, loader_processes
from flowseg.training.trainer import Stage, train_stage
from helpers.training import CELLS, CONFIG, CPU, network, record

CHECKOUT = Path(flowseg.__file__).parents[1]


class Deadly:
    """An annotation that kills the loader process which reads it."""

    def masks(self, *_: object) -> NoReturn:
        assert multiprocessing.parent_process() is not None
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Damaged:
    """An annotation that cannot be read."""

    def masks(self, *_: object) -> Masks:
        raise FlowsegError("is damaged", file="train.csv", remedy="mend it")


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_loader_is_one_clear_line(stage: Stage) -> None:
    training = [replace(one, annotation=Deadly()) for one in stage.training]
    schedule = replace(CONFIG.training, workers=1)
    stage = replace(stage, training=training, schedule=schedule, validation=[])
    with pytest.raises(FlowsegError, match="prepares training crops was killed; if memory ran out"):
        train_stage(stage, network(), CPU, resume=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loader_stays_as_it_is(tmp_path: Path, workers: int) -> None:
    bad = replace(record(tmp_path, "a", 1), annotation=Damaged())
    source = batches(CropDataset([bad], CELLS, CONFIG), range(0, 4, 4), 4, workers, pin=False)
    with pytest.raises(FlowsegError) as caught:
        next(source)
    assert str(caught.value) == "train.csv: is damaged; mend it"
    assert caught.value.file == "train.csv"


def test_cells_are_pasted_from_images_of_the_same_type(tmp_path: Path) -> None:
    bare = [
        replace(record(tmp_path, name, 1, kind), annotation=Masks.from_dense([], (64, 80)))
        for name, kind in (("a", "disc"), ("b", "other"))
    ]
    config = replace(CONFIG, augment=replace(CONFIG.augment, paste_fraction=1.0))
    crops = CropDataset([*bare, record(tmp_path, "c", 2, "other")], CELLS, config)
    full = dict.fromkeys(CELLS, 0)
    for number in range(60):
        crop = crops[number]
        full[list(CELLS)[int(crop.cell_type)]] += int(crop.inside.any())
    # 20 crops are of each image; without pasting, those of one image of "other" hold cells.
    assert full["disc"] == 0
    assert full["other"] > 20


def test_no_cells_are_pasted_from_extra_images(tmp_path: Path) -> None:
    bare = replace(record(tmp_path, "a", 1), annotation=Masks.from_dense([], (64, 80)))
    augment, data = (
        replace(CONFIG.augment, paste_fraction=1.0),
        replace(CONFIG.data, extra_weight=0.0),
    )
    config = replace(CONFIG, augment=augment, data=data)
    crops = CropDataset([bare], CELLS, config, extra=[record(tmp_path, "b", 2)])
    assert not any(crops[number].inside.any() for number in range(8))


def test_crops_draw_from_their_own_number_only(tmp_path: Path) -> None:
    dataset = CropDataset([record(tmp_path, "a", 1)], CELLS, CONFIG)
    before = dataset[5]
    torch.manual_seed(7)
    _ = dataset[3], dataset[4]
    for one, other in zip(before, dataset[5], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(before.images, dataset[6].images)


@pytest.mark.parametrize(("balance", "rare"), [(0.0, 1 / 6), (0.5, 0.3090), (1.0, 0.5)])
def test_rare_cell_types_come_as_often_as_asked(
    tmp_path: Path, balance: float, rare: float
) -> None:
    first, second = list(CELLS)[:2]
    records = [replace(record(tmp_path, name, 1), cell_type=first) for name in "abcde"]
    records.append(replace(record(tmp_path, "f", 1), cell_type=second))
    dataset = CropDataset(records, CELLS, CONFIG, balance=balance)
    drawn = [dataset._image_of(number) for number in range(1200)]
    assert drawn.count(5) / 1200 == pytest.approx(rare, abs=0.01)
    if balance == 0:
        assert all(sorted(drawn[k : k + 6]) == list(range(6)) for k in range(0, 1200, 6))


@pytest.mark.parametrize("script", ["train.py", "predict.py", "flowseg/__main__.py"])
def test_a_spawned_process_does_not_start_the_command_again(script: str) -> None:
    if not (CHECKOUT / script).is_file():
        pytest.skip("not in a checkout")
    # As multiprocessing imports the main script in a process that it spawns.
    runpy.run_path(str(CHECKOUT / script), run_name="__mp_main__")


def test_loader_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowseg.training.batches.threads", lambda: 16)
    cuda = torch.device("cuda")
    assert loader_processes(3, CPU) == loader_processes(3, cuda) == 3
    assert loader_processes(None, CPU) == 0
    assert loader_processes(None, cuda) == 8
    monkeypatch.setattr("flowseg.training.batches.local_world_size", lambda: 4)
    assert loader_processes(None, cuda) == 3
    monkeypatch.setattr("flowseg.training.batches.local_world_size", lambda: 16)
    assert loader_processes(None, cuda) == 1
