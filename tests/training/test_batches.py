"""Loader processes: what they report, and how they are started."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch

import flowseg
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.training.batches import CropDataset, batches, loader_processes
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage
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


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_loader_is_one_clear_line(stage: Stage) -> None:
    training = [replace(one, annotation=Deadly()) for one in stage.training]
    schedule = replace(CONFIG.training, workers=1)
    stage = replace(stage, training=training, schedule=schedule, validation=[])
    with pytest.raises(FlowsegError, match="prepares training crops was killed; if memory ran out"):
        train_stage(stage, network(), CPU, resume=False)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loader_stays_as_it_is(tmp_path: Path, workers: int) -> None:
    bad = replace(record(tmp_path, "a", 1), annotation=Damaged())
    source = batches(CropDataset([bad], CONFIG), range(0, 4, 4), 4, workers, pin=False)
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
    crops = CropDataset([*bare, record(tmp_path, "c", 2, "other")], config)
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
    crops = CropDataset([bare], config, extra=[record(tmp_path, "b", 2)])
    assert not any(crops[number].inside.any() for number in range(8))


def test_crops_draw_from_their_own_number_only(tmp_path: Path) -> None:
    dataset = CropDataset([record(tmp_path, "a", 1)], CONFIG)
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
    dataset = CropDataset(records, CONFIG, balance=balance)
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
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**40))
    assert loader_processes(3, CPU, 16, 256) == loader_processes(3, cuda, 16, 256) == 3
    assert loader_processes(None, CPU, 16, 256) == 0
    assert loader_processes(None, cuda, 16, 256) == 14
    monkeypatch.setattr("flowseg.training.batches.threads", lambda: 1)
    assert loader_processes(None, cuda, 16, 256) == 1


@pytest.mark.parametrize(("megabytes", "count"), [(64, 1), (300, 6), (2000, 14)])
def test_loader_processes_fit_into_a_containers_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    megabytes: int,
    count: int,
) -> None:
    monkeypatch.setattr("flowseg.training.batches.threads", lambda: 16)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=megabytes * 2**20))
    assert loader_processes(None, torch.device("cuda"), 16, 256) == count
    assert ("--shm-size" in caplog.text) == (count < 14)


@pytest.mark.slow
def test_crops_do_not_depend_on_workers(stage: Stage) -> None:
    dataset = CropDataset(stage.training, CONFIG)
    alone = list(batches(dataset, range(3, 9, 3), 3, workers=0, pin=False))
    helped = list(batches(dataset, range(3, 9, 3), 3, workers=2, pin=False))
    assert len(alone) == len(helped) == 2
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert one.images.shape == (3, 1, 32, 32)
        length = one.flows.norm(dim=1)
        assert torch.all((length > 0.99) == (one.inside > 0))


def test_every_image_comes_once_a_round(stage: Stage) -> None:
    dataset = CropDataset(stage.training, CONFIG)
    rounds = [[dataset._image_of(4 * turn + i) for i in range(4)] for turn in range(6)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1


def test_extra_images_have_their_share_of_the_crops(stage: Stage, tmp_path: Path) -> None:
    extra = [record(tmp_path, f"x{i}", 50 + i) for i in range(3)]
    plain = CropDataset(stage.training, CONFIG)
    for weight, share in ((0.5, 1 / 3), (1.0, 1 / 2), (2.5, 5 / 7)):
        config = replace(CONFIG, data=replace(CONFIG.data, extra_weight=weight))
        mixed = CropDataset(stage.training, config, extra)
        drawn = [mixed._image_of(number) for number in range(420)]
        of_extra = [image for image in drawn if image >= 4]
        assert len(of_extra) == pytest.approx(420 * share, abs=1)
        # Not one after the other: any stretch holds about its share.
        for first in range(0, 420, 21):
            some = sum(image >= 4 for image in drawn[first : first + 21])
            assert some == pytest.approx(21 * share, abs=1)
        rounds = [of_extra[i : i + 3] for i in range(0, len(of_extra) // 3 * 3, 3)]
        assert all(sorted(images) == [4, 5, 6] for images in rounds)
        # The labelled ones come in the order in which they would come alone.
        own = [image for image in drawn if image < 4]
        assert own == [plain._image_of(number) for number in range(len(own))]


def test_without_weight_extra_images_change_nothing(stage: Stage, tmp_path: Path) -> None:
    none = replace(CONFIG, data=replace(CONFIG.data, extra_weight=0.0))
    mixed = CropDataset(stage.training, none, [record(tmp_path, "x", 50)])
    plain = CropDataset(stage.training, none)
    assert [mixed._image_of(n) for n in range(40)] == [plain._image_of(n) for n in range(40)]


def test_a_small_cache_changes_nothing(stage: Stage) -> None:
    large = CropDataset(stage.training, CONFIG)
    small_config = replace(CONFIG, data=replace(CONFIG.data, cache_mb=0))
    small = CropDataset(stage.training, small_config)
    for number in range(6):
        for one, other in zip(large[number], small[number], strict=True):
            assert torch.equal(one, other)


@pytest.mark.slow
def test_a_script_without_main_guard_is_told_so(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from flowseg.training.batches import CropDataset, batches
from helpers.training import CONFIG, record
one = record(Path({str(tmp_path)!r}), "a", 1)
print(next(batches(CropDataset([one], CONFIG), range(0, 8, 4), 4, 1, pin=False)))
"""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert "cannot start; each imports the script again" in done.stderr
    assert "__main__" in done.stderr.splitlines()[-1]
