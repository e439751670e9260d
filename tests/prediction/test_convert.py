"""Models of Cellpose in every command: they predict, train on, go back, and are converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowseg.cli import main
from flowseg.inference.segmenter import Segmenter
from flowseg.io.images import write_image, write_labels
from flowseg.network.checkpoint import load_network, read_card

ARRAYS = np.load(Path(__file__).parents[1] / "network" / "cellpose_reference.npz")


@pytest.fixture
def cyto(tmp_path: Path) -> Path:
    """A checkpoint as Cellpose saves it, of random weights."""
    start = "two/weight/"
    keys = [key for key in ARRAYS.files if key.startswith(start)]
    path = tmp_path / "cyto"
    torch.save({key.removeprefix(start): torch.from_numpy(ARRAYS[key]) for key in keys}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Four images and their labels."""
    cells = np.kron(np.arange(1, 10).reshape(3, 3), np.pad(np.ones((20, 20), int), 4))
    made = tmp_path / "cells"
    made.mkdir()
    for k in range(4):
        image = (cells > 0) * 90 + rng.integers(0, 60, cells.shape)
        write_image(made / f"{'abcd'[k]}.tif", image.astype(np.uint8))
        write_labels(made / f"{'abcd'[k]}_masks.tif", cells)
    return made


def state(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


def test_it_predicts_with_all_outputs_and_as_an_ensemble(
    cyto: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    common = ["predict", "--in", str(folder), "--device", "cpu", "--tta", "2", "--diameter", "20"]
    folders = ["--fields", str(tmp_path / "fields"), "--seg-npy", str(tmp_path / "seg")]
    assert main([*common, "--model", str(cyto), str(cyto), "--out", str(out), *folders]) == 0
    assert out.read_text(encoding="utf-8").startswith("id,predicted")
    assert len(list((tmp_path / "fields").iterdir())) == 4
    found = Segmenter.load(cyto, "cpu").segment(np.zeros((50, 60), np.uint8), diameter="auto")
    assert found.cell_type == "cell"
    assert found.labels.shape == (50, 60)


@pytest.mark.slow
def test_it_trains_on_and_goes_back(
    cyto: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, back = tmp_path / "run", tmp_path / "back"
    small = ["training.crops_per_epoch=4", "training.batch_size=2", "augment.crop_size=64"]
    options = [word for setting in small for word in ("--set", setting)]
    train = ["train", "--data", str(folder), "--cell-type", "cell", "--device", "cpu", "--quiet"]
    train += ["--pretrain", str(cyto), "--epochs", "1", "--folds", "2", "--fold", "0", *options]
    assert main([*train, "--out", str(run)]) == 0
    network, card = load_network(run / "best.safetensors")
    assert card.network.kind == "cellpose"
    assert card.network.input_channels == 2
    assert main(["export", "--weights", str(run), "--to", "cellpose", str(back)]) == 0
    assert state(back).keys() == state(cyto).keys()
    kernel = "downsample.down.res_down_1.conv.conv_1.2.weight"
    assert not torch.equal(state(back)[kernel], state(cyto)[kernel])
    again, other = load_network(back)
    assert other.cell_types["cell"].diameter == pytest.approx(card.cell_types["cell"].diameter)
    image = torch.randn(1, 1, 24, 40, generator=torch.Generator().manual_seed(0))
    for one, two in zip(network(image), again(image), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)
    assert main([*train, "--out", str(run)]) == 2  # begun before, and not resumed
    capsys.readouterr()


def test_conversion_keeps_the_weights_and_says_where_they_come_from(
    cyto: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cyto.safetensors"
    assert main(["convert", str(cyto), "--out", str(out), "--license", "BSD-3-Clause"]) == 0
    card = read_card(out)
    assert card.provenance["license"] == "BSD-3-Clause"
    assert card.provenance["file"] == "cyto"
    assert len(card.provenance["sha256"]) == 64
    back = tmp_path / "back"
    assert main(["export", "--weights", str(out), "--to", "cellpose", str(back)]) == 0
    before, after = state(cyto), state(back)
    assert all(torch.equal(before[key], after[key]) for key in before)
    for command, told in (
        (["convert", str(out), "--out", str(tmp_path / "x")], "checkpoint of flowseg already"),
        (["convert", str(cyto), "--out", str(cyto)], "cyto"),
        (["export", "--weights", str(out), "--to", "onyx", "x"], "there is no format 'onyx'"),
        (["export", "--weights", str(out)], "--weights MODEL --to FORMAT FILE"),
        (["export", "--coco", "x.json"], "nothing to export"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert state(cyto).keys() == before.keys()


def test_a_network_of_our_own_does_not_go_to_cellpose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flowseg.network.checkpoint import Card, save_network
    from helpers.training import CONFIG, network

    path = tmp_path / "own.safetensors"
    save_network(path, network().state_dict(), Card(CONFIG.network, CONFIG.cell_types))
    assert main(["export", "--weights", str(path), "--to", "cellpose", str(tmp_path / "x")]) == 2
    assert "flowseg's own kind" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
