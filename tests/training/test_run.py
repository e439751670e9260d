"""A run: what it leaves, and that a finished one is not trained again."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowseg.config.loading import load_config
from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training.run import TrainResult, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("competition")
    write_synthetic_sartorius(folder, 6, 0, 1, (96, 128), ("cort",))
    return folder


@pytest.fixture(scope="module")
def config() -> Config:
    overrides = ["network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"]
    overrides += ["training.crops_per_epoch=8", "training.batch_size=4", "training.epochs=2"]
    return load_config("cort", overrides=[*overrides, "data.folds=2", "data.fold=1"])


@pytest.fixture(scope="module")
def result(data: Path, config: Config, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(config, data, tmp_path_factory.mktemp("runs") / "cort", device="cpu")


@pytest.mark.slow
def test_what_it_leaves(result: TrainResult) -> None:
    names = {path.name for path in result.folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("best.safetensors", "last.safetensors", "state.safetensors", "config.yaml"),
        *("origin.json", "folds.csv", "metrics.csv", "curves.png", "overlays", "summary.json"),
    }


def test_a_finished_run_is_not_trained_again(result: TrainResult, data: Path) -> None:
    (result.folder / "state.safetensors").unlink()
    before = result.checkpoint.read_bytes()
    settings = load_config(path=result.folder / "config.yaml")
    assert train(settings, data, result.folder, device="cpu", resume=True) == result
    assert result.checkpoint.read_bytes() == before
    summary = result.folder / "summary.json"
    text = summary.read_text()
    summary.write_text("{}")
    with pytest.raises(FlowsegError, match=r"summary\.json: is damaged; remove it"):
        train(settings, data, result.folder, device="cpu", resume=True)
    summary.write_text(text)
