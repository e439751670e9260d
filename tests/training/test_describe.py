"""What is said of a checkpoint and of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.unet import FlowNetwork
from flowseg.training.describe import describe
from flowseg.training.run_folder import lock_run_folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    network = NetworkConfig(channels=(4, 8), blocks_per_level=1)
    provenance = {"epoch": 3, "validation_score": 0.123456, "versions": {"torch": "2.13"}}
    card = Card(network, {"astro": CellTypeSettings(diameter=34, flow_threshold=0.7)}, provenance)
    weights = FlowNetwork(network, 1).state_dict()
    save_network(tmp_path / "best.safetensors", weights, card)
    (tmp_path / "metrics.csv").write_text("epoch,loss,score\n1,0.5,\n2,0.25,0.1\n")
    (tmp_path / "state.safetensors").write_bytes(b"")
    return tmp_path


def test_a_checkpoint(run: Path) -> None:
    text = describe(run / "best.safetensors")
    for expected in ("channels 4, 8", "0.1235", "torch 2.13", "astro      34 px", "<= 0.7"):
        assert expected in text
    assert "state" not in text


def test_a_run(run: Path) -> None:
    text = describe(run)
    assert "not finished, 2 epochs done; continue it with --resume" in text
    assert "loss 0.2500, score 0.1000" in text
    summary = {
        "stage": "training",
        "epochs": 2,
        "validation_score": 0.1,
        "validation_images": ["a"],
    }
    (run / "summary.json").write_text(json.dumps(summary))
    text = describe(run)
    assert "finished: training" in text
    assert "validation images  1\n" in text
    (run / "best.safetensors").unlink()
    assert "checkpoint " not in describe(run)


def test_a_cross_validation_under_way(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "all-3folds"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("data: {folds: 3}\ntraining: {epochs: 4}\n")
    (folder / "origin.json").write_text('{"stage": "cross validation"}')
    assert "not finished, 0 of 3 folds done, in fold 0: 0 epochs done;" in describe(folder)
    (folder / "fold0").mkdir()
    (folder / "fold0" / "state.safetensors").write_bytes(b"")
    (folder / "fold0" / "metrics.csv").write_text("epoch,loss\n1,0.75\n")
    text = describe(folder)
    assert "not finished, 0 of 3 folds done, in fold 0: 1 epochs done; continue it with" in text
    assert "loss 0.7500" in text
    assert "checkpoint " not in text
    (folder / "fold0" / "summary.json").write_text("{}")
    (folder / "fold0" / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    (folder / "fold1").mkdir()
    (folder / "fold1" / "metrics.csv").write_text("epoch,loss,seconds\n1,0.5,80\n2,0.25,100\n")
    (folder / "fold1" / "config.yaml").write_text("training: {epochs: 4}\n")
    text = describe(folder)
    # Two of this fold, and four of the next.
    assert "epochs      1.5 min each, 6 left take 9.0 min, until 20" in text
    assert "not finished, 1 of 3 folds done, in fold 1: 2 of 4 epochs done; continue" in text
    with lock_run_folder(folder / "fold2"):  # by a job of its own
        assert "in fold 1: 2 of 4 epochs done; at work" in describe(folder)
    assert "loss 0.2500" in text
    assert "checkpoint " in text
    for fold in ("fold1", "fold2"):
        (folder / fold).mkdir(exist_ok=True)
        (folder / fold / "summary.json").write_text("{}")
    assert "not finished, 3 of 3 folds done; continue it with --resume" in describe(folder)
    (folder / "summary.json").write_text('{"stage": "cross validation", "folds": 3}')
    assert "finished: cross validation\nfolds " in describe(folder)


def test_a_run_before_its_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert "not finished, 0 of 16 epochs done; continue it with --resume" in describe(tmp_path)


def test_a_run_that_a_process_is_at(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with lock_run_folder(tmp_path):
        assert "not finished, 0 of 16 epochs done; at work" in describe(tmp_path)
    assert "continue it with --resume" in describe(tmp_path)


def test_neither(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match="name a run's folder or a checkpoint"):
        describe(Path(__file__).parent)
    with pytest.raises(FlowsegError, match="no such checkpoint"):
        describe(tmp_path / "none")
    (run / "summary.json").write_text("{")
    with pytest.raises(FlowsegError, match=r"summary.json: is damaged"):
        describe(run)
