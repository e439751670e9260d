"""Small models of Cellpose, with the weights of the reference that its own code computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

REFERENCE = np.load(Path(__file__).parents[1] / "network" / "cellpose_reference.npz")


def save_model(folder: Path, name: str) -> Path:
    """A model in Cellpose's format: "grey" of one channel, "two" of cells and nuclei."""
    start = f"{name}/weight/"
    weights = {
        key.removeprefix(start): torch.from_numpy(REFERENCE[key])
        for key in REFERENCE.files
        if key.startswith(start)
    }
    torch.save(weights, folder / f"{name}_like")
    return folder / f"{name}_like"
