"""Training on drawn images: no files, no two crops alike, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowseg.cli import main
from flowseg.config.loading import load_config
from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import read_card
from flowseg.training.batches import batches
from flowseg.training.drawn import DrawnCrops
from flowseg.training.run import train


@pytest.fixture
def config() -> Config:
    overrides = ["network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64"]
    overrides += ["training.crops_per_epoch=8", "training.batch_size=4", "training.epochs=2"]
    return load_config("cell", overrides=[*overrides, "network.stem_stride=2"])


def test_crops_are_drawn_by_their_number(config: Config) -> None:
    crops, again = DrawnCrops(config), DrawnCrops(config)
    for number in (0, 7):
        for one, other in zip(crops[number], again[number], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(crops[0].images, crops[1].images)
    other_seed = DrawnCrops(replace(config, seed=1))
    assert not torch.equal(crops[0].images, other_seed[0].images)


def test_targets_are_those_of_the_cells(config: Config) -> None:
    crops = DrawnCrops(config)
    inside = []
    for number in range(12):
        crop = crops[number]
        assert crop.images.shape == (1, 64, 64)
        assert torch.isfinite(crop.images).all()
        lengths = crop.flows.square().sum(dim=0).sqrt()
        assert torch.equal(lengths > 0.5, crop.inside > 0)
        assert crop.cell_type == 0
        inside.append(float(crop.inside.mean()))
    assert 0.05 < np.mean(inside) < 0.7


@pytest.mark.slow
def test_loader_processes_change_nothing(config: Config) -> None:
    one, two = (
        list(batches(DrawnCrops(config), range(0, 8, 4), 4, workers, pin=False))
        for workers in (0, 2)
    )
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first.images, second.images)


@pytest.mark.slow
def test_a_run_needs_no_folder(config: Config, tmp_path: Path) -> None:
    whole = train(config, "drawn", tmp_path / "whole", device="cpu")
    assert np.isnan(whole.score)
    card = read_card(whole.checkpoint)
    assert card.cell_types["cell"].diameter is None  # measured on each image
    assert card.provenance["data"].startswith("drawn")
    assert card.network.stem_stride == 2
    assert train(config, "drawn", tmp_path / "whole", device="cpu", resume=True).epoch == 2
    again = train(config, "drawn", tmp_path / "again", device="cpu")
    assert again.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_what_needs_images_is_refused(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FlowsegError, match="without a data folder"):
        train(config, "drawn", tmp_path / "a", pretrain="livecell", device="cpu")
    with pytest.raises(FlowsegError, match="one cell type"):
        train(load_config("all"), "drawn", tmp_path / "a", device="cpu")
    assert main(["cross-validate", "--data", "drawn"]) == 2
    assert "needs labelled images" in capsys.readouterr().err
    assert main(["train", "--data", "./drawn", "--out", str(tmp_path / "b")]) == 2
    assert "drawn" in capsys.readouterr().err  # a folder that is not there
