"""On a CUDA device: a training learns, repeats its bits, and goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowseg.training.run_folder import LAST, STATE
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage
from helpers.training import network

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def trained(stage: Stage, folder: Path, *, precision: str, resume: bool = False) -> bytes:
    """The last weights of a training in a folder."""
    folder.mkdir(exist_ok=True)
    schedule = replace(stage.schedule, precision=precision, workers=0)
    train_stage(replace(stage, folder=folder, schedule=schedule), network(), CUDA, resume)
    return (folder / LAST).read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_training_repeats_its_bits(stage: Stage, tmp_path: Path, precision: str) -> None:
    first, second = (trained(stage, tmp_path / name, precision=precision) for name in "ab")
    assert first == second


def test_a_stopped_training_goes_on(stage: Stage, tmp_path: Path) -> None:
    whole = trained(stage, tmp_path / "whole", precision="auto")

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        trained(replace(stage, on_epoch=stop), folder, precision="auto")
    assert (folder / STATE).is_file()
    assert trained(stage, folder, precision="auto", resume=True) == whole
