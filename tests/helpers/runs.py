"""What two runs must have in common, and a network that finds cells without having learned."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.network.checkpoint import Card, read_tensors, save_network
from flowseg.network.unet import FlowNetwork

__all__ = ["differences", "save_wild_network"]


def differences(one: Path, other: Path) -> list[str]:
    """The files below two folders, by their relative names, that differ or are in one only.

    The seconds that a run took do not count.
    """
    names = {path.relative_to(top) for top in (one, other) for path in _files(top)}
    return sorted(str(name) for name in names if _content(one / name) != _content(other / name))


def save_wild_network(path: Path) -> None:
    """A checkpoint whose arrows point anywhere, so that every image is full of cells."""
    config = NetworkConfig(channels=(4, 8), blocks_per_level=1)
    network = FlowNetwork(config, 1, seed=3)
    with torch.no_grad():
        network.head.weight *= 300
    everything = CellTypeSettings(
        diameter=30.0, cellprob_threshold=-99.0, flow_threshold=0.0, min_size=4
    )
    save_network(path, network.state_dict(), Card(config, {"any": everything}))


def _files(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_file() and path.name != ".lock"]


def _content(path: Path) -> object:
    """What counts in a file; None where there is none."""
    if not path.is_file():
        return None
    if path.name == "metrics.csv":
        table = pd.read_csv(path)
        return table[[name for name in table if not name.startswith("seconds")]].to_csv()
    if path.name == "summary.json":
        return _untimed(json.loads(path.read_text()))
    if path.name == "state.safetensors":
        tensors, text = read_tensors(path)
        counters = json.loads(text or "")
        counters["rows"] = [_untimed(row) for row in counters["rows"]]
        return {key: value.numpy().tobytes() for key, value in tensors.items()}, counters
    return path.read_bytes()


def _untimed(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if not key.startswith("seconds")}
