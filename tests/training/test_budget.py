"""Schedules that fit into the time that there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowseg.config.loading import load_config
from flowseg.config.schema import Config
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training import budget
from flowseg.training.budget import fit_budget
from flowseg.training.run import train

CONFIG = load_config(
    overrides=[
        *("training.epochs=8", "training.crops_per_epoch=80", "training.batch_size=8"),
        *("pretraining.epochs=4", "pretraining.crops_per_epoch=80", "pretraining.batch_size=8"),
    ]
)  # 80 and 40 steps


@pytest.mark.parametrize(
    ("seconds", "pretraining", "folds", "epochs"),
    [
        (100.0, False, 1, (8, 4)),  # 80 steps of 1.1 s
        (50.0, False, 1, (4, 4)),
        (1000.0, False, 1, (80, 4)),
        (500.0, False, 5, (8, 4)),
        (150.0, True, 1, (8, 4)),
        (76.0, True, 1, (4, 2)),
        (550.0, True, 5, (8, 4)),  # the first stage is shared
    ],
)
def test_epochs_of_all_stages_are_scaled_alike(
    seconds: float, pretraining: bool, folds: int, epochs: tuple[int, int]
) -> None:
    fitted = fit_budget(CONFIG, seconds, 1.1, pretraining=pretraining, folds=folds)
    found = fitted.training.epochs, fitted.pretraining.epochs
    assert found == epochs
    assert fitted.training.crops_per_epoch == 80


def test_less_than_an_epoch_shortens_it() -> None:
    fitted = fit_budget(CONFIG, 5.0, 1.1, pretraining=False).training
    assert (fitted.epochs, fitted.validate_every) == (1, 1)
    assert 24 <= fitted.crops_per_epoch <= 36  # four steps
    assert fit_budget(CONFIG, 0.1, 1.1, pretraining=False).training.crops_per_epoch == 8


def test_several_processes_take_fewer_steps() -> None:
    fitted = fit_budget(CONFIG, 100.0, 1.1, pretraining=False, processes=2)
    assert fitted.training.epochs == 16


@pytest.mark.slow
def test_a_run_holds_the_epochs_and_resumes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_synthetic_sartorius(tmp_path / "data", 6, 0, 1, (96, 128), ("cort",))
    overrides = ["network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"]
    overrides += ["training.crops_per_epoch=8", "training.batch_size=4", "training.epochs=2"]
    config: Config = load_config("cort", overrides=[*overrides, "data.folds=2"])
    wanted = replace(config, time_budget=2.0)
    out = tmp_path / "run"
    result = train(wanted, tmp_path / "data", out, device="cpu")
    held = load_config(path=out / "config.yaml")
    assert held.time_budget is None
    assert held.training.epochs * held.training.crops_per_epoch != 16  # it was measured
    before = result.checkpoint.read_bytes()
    # The same command again, on a machine that has become slower.
    monkeypatch.setattr(budget, "_seconds_per_step", lambda *_: 1e6)
    assert train(wanted, tmp_path / "data", out, device="cpu", resume=True) == result
    assert result.checkpoint.read_bytes() == before
    # And exactly so by the config alone.
    again = train(held, tmp_path / "data", tmp_path / "again", device="cpu")
    assert again.score == result.score
