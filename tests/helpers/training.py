"""A small stage of training, and the records it learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from flowseg.arrays.rle import Masks
from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, Config
from flowseg.data.record import Record
from flowseg.io.images import write_image
from flowseg.network.unet import FlowNetwork
from flowseg.training.stage import Stage

__all__ = ["CELLS", "CONFIG", "CPU", "in_folder", "make_stage", "network", "record"]

CPU = torch.device("cpu")
CELLS = {"disc": CellTypeSettings(diameter=20.0), "other": CellTypeSettings(diameter=30.0)}
_DEFAULTS: Config = load_config(
    overrides=[
        "network.channels=[4, 8]",
        "network.blocks_per_level=1",
        "augment.crop_size=32",
        "training.epochs=3",
        "training.crops_per_epoch=12",
        "training.batch_size=4",
        "training.precision=float32",
    ]
)
CONFIG = replace(_DEFAULTS, cell_types=CELLS)


def record(folder: Path, name: str, seed: int, cell_type: str = "disc") -> Record:
    """Bright discs on a dark ground."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((64, 80), np.int32)
    rows, columns = np.indices(labels.shape)
    for number, (y, x) in enumerate([(16, 16), (16, 60), (48, 38)], start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 < 81] = number
    image = np.where(labels > 0, 180, 60) + rng.normal(0, 5, labels.shape)
    path = folder / f"{name}.png"
    write_image(path, image.astype(np.uint8))
    return Record(
        image_id=name,
        image_path=path,
        shape=labels.shape,
        cell_type=cell_type,
        group=name,
        annotation=Masks.from_labels(labels),
    )


def make_stage(tmp_path: Path) -> Stage:
    folder = tmp_path / "run"
    folder.mkdir()
    training = [record(tmp_path, f"t{i}", i) for i in range(3)]
    training.append(record(tmp_path, "o0", 9, "other"))
    validation = [record(tmp_path, "v0", 100), record(tmp_path, "v1", 101, "other")]
    return Stage(
        folder=folder,
        config=CONFIG,
        schedule=CONFIG.training,
        training=training,
        validation=validation,
        provenance={"stage": "training", "from": "a test"},
    )


def network(seed: int = 1) -> FlowNetwork:
    return FlowNetwork(CONFIG.network, len(CELLS), seed)


def in_folder(stage: Stage, folder: Path) -> Stage:
    folder.mkdir(exist_ok=True)
    return replace(stage, folder=folder)
