"""A run that is killed while it writes, anywhere and often, ends like one left in peace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowseg import load_config, train
from flowseg.formats.writers import Formats
from flowseg.io import atomic
from flowseg.io.paths import find_images
from flowseg.prediction.predict import predict
from flowseg.synthetic.datasets import write_synthetic_livecell, write_synthetic_sartorius
from flowseg.training import provenance, trainer
from helpers.runs import differences, save_wild_network

pytestmark = pytest.mark.slow

CONFIG = load_config(
    "all",
    overrides=[
        *(
            "network.channels=[4, 8]",
            "network.blocks_per_level=1",
            "augment.crop_size=64",
            "data.folds=2",
        ),
        *("training.crops_per_epoch=4", "training.batch_size=4", "training.epochs=3"),
        *("pretraining.crops_per_epoch=4", "pretraining.batch_size=4", "pretraining.epochs=2"),
    ],
)


class KilledError(BaseException):
    """Stands for a kill: nothing catches it, and nothing is cleaned up."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_synthetic_sartorius(folder, 12, 0, 1, (96, 128))
    write_synthetic_livecell(folder, 2, 1, 2, (96, 128))
    return folder


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Die in the n-th write from now on, the temporary file written and not yet in its place."""
    flush = atomic._flush
    left = 0

    def dying(path: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KilledError
        flush(path)

    def arm(writes: int) -> None:
        nonlocal left
        left = writes

    monkeypatch.setattr(atomic, "_flush", dying)
    monkeypatch.setattr(atomic, "discard", lambda _: None)
    return arm


def until_finished(work: Callable[[], object], kill: Callable[[int], None], seed: int) -> int:
    """How often it was killed until it was done."""
    rng = np.random.default_rng(seed)
    kills = 0
    while True:
        kill(int(rng.integers(1, 12)))
        try:
            work()
        except KilledError:
            kills += 1
        else:
            return kills


def start(data: Path, home: Path) -> None:
    resume = (home / "run" / "config.yaml").is_file()
    train(CONFIG, data, home / "run", pretrain="livecell", device="cpu", resume=resume)


def test_a_training_killed_in_its_writes(
    data: Path, tmp_path: Path, kill: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So little training scores nothing; the best weights shall be those of a middle epoch.
    scores = {1: 0.2, 2: 0.5, 3: 0.1}
    monkeypatch.setattr(
        trainer.Trainer, "validate", lambda run, _: {"score": scores[run.epoch + 1]}
    )
    monkeypatch.setattr(provenance, "git_revision", lambda: None)  # someone may commit meanwhile
    start(data, tmp_path / "whole")
    assert until_finished(lambda: start(data, tmp_path / "killed"), kill, seed=1) >= 3
    assert any(path.name.startswith(".part-") for path in tmp_path.rglob("*"))
    for path in tmp_path.rglob(".part-*"):
        path.unlink()
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_training_killed_before_it_began_can_be_started_again(
    data: Path, tmp_path: Path, kill: Callable[[int], None], writes: int
) -> None:
    kill(writes)  # of origin.json, config.yaml, and the first of the pre-training
    with pytest.raises(KilledError):
        start(data, tmp_path)
    kill(2 * writes)
    with pytest.raises(KilledError):
        start(data, tmp_path)


def test_a_prediction_killed_in_its_writes(
    data: Path, tmp_path: Path, kill: Callable[[int], None]
) -> None:
    save_wild_network(tmp_path / "wild.safetensors")
    images = find_images(data / "train")

    def work(home: Path) -> None:
        outputs = Formats(
            submission=home / "submission.csv",
            labels=home / "labels",
            overlays=home / "overlays",
            coco=home / "coco.json",
            cells=home / "cells.csv",
        )
        assert predict(tmp_path / "wild.safetensors", images, outputs, device="cpu").cells > 100

    work(tmp_path / "whole")
    assert until_finished(lambda: work(tmp_path / "killed"), kill, seed=2) >= 2
    for path in tmp_path.rglob(".part-*"):
        path.unlink()
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
