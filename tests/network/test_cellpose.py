"""Cellpose's network and files: its own outputs, every way of saving, and what only looks alike."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowseg.errors import FlowsegError
from flowseg.network.cellpose import CellposeNetwork
from flowseg.network.checkpoint import load_network, read_card, save_network

ARRAYS = np.load(Path(__file__).with_name("cellpose_reference.npz"))
NAMES = ("grey", "two")


def weights(name: str) -> dict[str, Tensor]:
    """A state dict as Cellpose saves it."""
    start = f"{name}/weight/"
    found = [key for key in ARRAYS.files if key.startswith(start)]
    return {key.removeprefix(start): torch.from_numpy(ARRAYS[key]) for key in found}


def written(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def maps(network: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        output = network(images)
    return torch.cat((output.flows, output.cellprob[:, None]), 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folded", [False, True])
def test_outputs_are_cellposes(tmp_path: Path, name: str, folded: bool) -> None:
    network, card = load_network(written(tmp_path / "cyto_like", weights(name)))
    assert isinstance(network, CellposeNetwork)
    assert card.cell_types["cell"].diameter == 21.5
    assert card.network.target_diameter == 30.0
    assert card.provenance["file"] == "cyto_like"
    network = network.folded() if folded else network
    images, expected = (torch.from_numpy(ARRAYS[f"{name}/{key}"]) for key in ("images", "maps"))
    torch.testing.assert_close(maps(network, images), expected, rtol=0, atol=1e-5)
    for k in range(2):  # a batch does not mix its images
        alone = maps(network, images[k : k + 1])
        torch.testing.assert_close(alone, expected[k : k + 1], rtol=0, atol=1e-5)


def test_a_grey_image_has_no_nuclei(tmp_path: Path) -> None:
    network, _ = load_network(written(tmp_path / "a", weights("two")))
    grey = torch.randn(1, 1, 16, 24, generator=torch.Generator().manual_seed(1))
    both = torch.cat((grey, torch.zeros_like(grey)), 1)
    assert torch.equal(maps(network, grey), maps(network, both))


SAVED: dict[str, Callable[[dict[str, Tensor], Path], Path]] = {
    "before torch 1.6": lambda w, p: written(p, w, _use_new_zipfile_serialization=False),
    "DataParallel": lambda w, p: written(p, {f"module.{k}": v for k, v in w.items()}),
    "another package's prefix": lambda w, p: written(
        p,
        {f"extractor.{k}": v for k, v in w.items() if not k.startswith(("output", "diam"))}
        | {
            k.replace("output.0", "tasker.base_bn").replace("output.2", "tasker.base_conv"): v
            for k, v in w.items()
            if k.startswith("output")
        },
    ),
    "half precision": lambda w, p: written(
        p, {k: v.half() if v.is_floating_point() else v for k, v in w.items()}
    ),
    "inside a checkpoint": lambda w, p: written(p, {"state_dict": w, "epoch": 3}),
    "without diameters": lambda w, p: written(p, {k: v for k, v in w.items() if "diam" not in k}),
    "without counters": lambda w, p: written(p, {k: v for k, v in w.items() if "tracked" not in k}),
    "named as a safetensors file": lambda w, p: written(p.with_suffix(".safetensors"), w),
}


@pytest.mark.parametrize("how", SAVED)
def test_ways_of_saving(tmp_path: Path, how: str) -> None:
    path = SAVED[how](weights("two"), tmp_path / "cytotorch_0")
    network, card = load_network(path)
    images, expected = (torch.from_numpy(ARRAYS[f"two/{key}"]) for key in ("images", "maps"))
    close = 2e-3 if how == "half precision" else 1e-5
    torch.testing.assert_close(maps(network, images), expected, rtol=0, atol=close)
    lost = how in ("without diameters", "another package's prefix")
    assert card.cell_types["cell"].diameter == (30.0 if lost else 21.5)
    assert read_card(path) == card


def test_an_old_model_of_nuclei_has_their_diameter(tmp_path: Path) -> None:
    old = {key: value for key, value in weights("two").items() if "diam" not in key}
    card = read_card(written(tmp_path / "nucleitorch_1", old))
    assert card.network.target_diameter == card.cell_types["cell"].diameter == 17.0


def cubes(of: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v[..., None] if v.ndim == 4 else v for k, v in of.items()}


FOREIGN: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "volumes": (cubes, "3D convolutions"),
    "restoration": (
        lambda w: w | {"output.2.weight": torch.zeros(1, 3, 1, 1), "output.2.bias": torch.zeros(1)},
        "a network of 1 output maps",
    ),
    "Cellpose-SAM": (lambda w: w | {"W2": torch.zeros(2)}, "a Cellpose-SAM model"),
    "transformer": (
        lambda _: {"encoder.patch_embed1.proj.weight": torch.zeros(2)},
        "a transformer",
    ),
    "no style": (
        lambda w: {k: v for k, v in w.items() if ".full." not in k},
        "without style or residual blocks",
    ),
    "another network": (lambda w: w | {"attention.weight": torch.zeros(2)}, "another network"),
    "part of one": (lambda w: {k: v for k, v in w.items() if "res_up_1" not in k}, "lacks weights"),
    "another framework": (lambda _: {"layer1.weight": torch.zeros(2)}, "no model of Cellpose"),
    "a list": (lambda w: list(w.values()), "no weights of a network"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_model_of_cellpose_is_named(tmp_path: Path, what: str) -> None:
    change, told = FOREIGN[what]
    path = written(tmp_path / "model", change(weights("two")))
    with pytest.raises(FlowsegError, match=told) as caught:
        load_network(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("/nowhere").touch, ()


def test_nothing_is_executed_and_damage_is_told(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", weights("two")).read_bytes()
    evil = pickle.dumps({"weight": Evil()})
    for content in (whole[: len(whole) // 2], whole[:8], evil):
        path = tmp_path / "bad"
        path.write_bytes(content)
        with pytest.raises(FlowsegError, match=r"bad: .*; give a U-Net of Cellpose"):
            load_network(path)


def test_a_safetensors_checkpoint_of_it_is_the_same(tmp_path: Path) -> None:
    network, card = load_network(written(tmp_path / "a", weights("two")))
    save_network(tmp_path / "b.safetensors", network.state_dict(), card)
    again, other = load_network(tmp_path / "b.safetensors")
    assert other == card
    images = torch.from_numpy(ARRAYS["two/images"])
    assert torch.equal(maps(again, images), maps(network, images))
