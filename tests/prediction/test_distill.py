"""A student learns what its teacher sees: the teacher's own flow field, wherever a crop lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowseg.cli import main
from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, Config
from flowseg.errors import FlowsegError
from flowseg.flow.representation import labels_to_flows
from flowseg.inference.flow_field import FlowField
from flowseg.io.images import write_image
from flowseg.io.tables import read_table
from flowseg.network.checkpoint import read_card
from flowseg.training.augment import draw_geometry
from flowseg.training.distilled import DistilledCrops, Lesson, save_lesson
from helpers.runs import save_wild_network

TINY = ("network.channels=[4, 8]", "network.blocks_per_level=1", "augment.crop_size=64")


@pytest.fixture
def config() -> Config:
    overrides = [*TINY, "training.crops_per_epoch=8", "training.batch_size=4"]
    loaded = load_config(overrides=[*overrides, "training.epochs=2"])
    return replace(loaded, cell_types={"any": CellTypeSettings(diameter=30.0)})


def discs() -> np.ndarray:
    labels = np.zeros((120, 140), np.int32)
    y, x = np.indices(labels.shape)
    for number, (row, column) in enumerate([(30, 30), (30, 100), (85, 60)], 1):
        labels[(y - row) ** 2 + (x - column) ** 2 < 400] = number
    return labels


@pytest.mark.parametrize("seed", range(6))
def test_flows_turn_with_the_crop(config: Config, seed: int) -> None:
    labels = discs()
    augment = replace(config.augment, scale=1.0)
    geometry = draw_geometry(labels.shape, 1.0, augment, np.random.default_rng(seed))
    cut = geometry.warp(labels.astype(np.float32), 100, 0.0, linear=False).astype(np.int32)
    flows = labels_to_flows(labels)
    turned = geometry.rotate(np.stack([geometry.warp(f, 100, 0.0) for f in flows]))
    expected = labels_to_flows(cut)
    whole = np.isin(cut, [k for k in (1, 2, 3) if (cut == k).sum() > 1150])
    cosine = (turned * expected).sum(axis=0)[whole]
    if cosine.size:
        assert np.median(cosine) > 0.95


def test_crops_hold_what_the_teacher_sees(config: Config, tmp_path: Path) -> None:
    labels = discs()
    field = FlowField(labels_to_flows(labels), np.where(labels > 0, 4.0, -4.0).astype(np.float32))
    save_lesson(tmp_path / "a.npz", (labels > 0).astype(np.float32), field)
    crops = DistilledCrops([Lesson(tmp_path / "a.npz", "any", 30.0)], config)
    again = DistilledCrops([Lesson(tmp_path / "a.npz", "any", 30.0)], config)
    for number in range(8):
        crop = crops[number]
        assert all(torch.equal(a, b) for a, b in zip(crop, again[number], strict=True))
        known = crop.inside >= 0
        assert crop.images.shape == (1, 64, 64)
        assert known.float().mean() > 0.5
        # The image is the mask itself, so that both must have gone the same way.
        sure = known & ((crop.inside < 0.05) | (crop.inside > 0.95))
        bright = crop.images[0] > 0.5
        assert (bright[sure] == (crop.inside[sure] > 0.5)).float().mean() > 0.97
        lengths = crop.flows.square().sum(dim=0).sqrt()
        assert lengths[crop.inside > 0.97].mean() > 0.8
        assert lengths[~known].sum() == 0


def test_a_damaged_lesson_is_named(config: Config, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04nonsense")
    crops = DistilledCrops([Lesson(tmp_path / "a.npz", "any", 30.0)], config)
    with pytest.raises(FlowsegError, match=r"a\.npz: holds no flow field"):
        crops[0]


@pytest.mark.slow
def test_a_student_is_a_run(tmp_path: Path, rng: np.random.Generator) -> None:
    save_wild_network(tmp_path / "teacher.safetensors")
    (tmp_path / "images").mkdir()
    for name in "ab":
        write_image(tmp_path / "images" / f"{name}.png", rng.integers(0, 255, (80, 90), np.uint8))
    settings = [*TINY, "training.crops_per_epoch=8", "training.batch_size=4", "training.epochs=2"]
    command = ["distill", "--in", str(tmp_path / "images"), "--tta", "2", "--device", "cpu"]
    command += ["--model", str(tmp_path / "teacher.safetensors"), "--out", str(tmp_path / "run")]
    command += [word for text in settings for word in ("--set", text)]
    assert main(command) == 0
    card = read_card(tmp_path / "run" / "best.safetensors")
    assert card.cell_types["any"] == read_card(tmp_path / "teacher.safetensors").cell_types["any"]
    assert card.provenance["teacher"] == ["teacher.safetensors"]
    losses = read_table(tmp_path / "run" / "metrics.csv", ("loss",))["loss"].astype(float)
    assert np.isfinite(losses).all()
    taught = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/teacher").iterdir()}
    weights = (tmp_path / "run" / "best.safetensors").read_bytes()
    assert main([*command, "--resume"]) == 0
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run/teacher").iterdir()}
    assert again == taught, "nothing is taught twice"
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == weights
    assert main(command) == 2  # the folder is not empty
    assert main([*command[:-2], "--set", "seed=5", "--resume"]) == 2  # another run


@pytest.mark.slow
def test_without_an_image_there_is_no_student(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_wild_network(tmp_path / "teacher.safetensors")
    (tmp_path / "a.png").write_bytes(b"nonsense")
    command = ["distill", "--in", str(tmp_path / "a.png"), "--device", "cpu"]
    command += ["--model", str(tmp_path / "teacher.safetensors"), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "no image could be read" in capsys.readouterr().err
