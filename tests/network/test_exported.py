"""A network computes the same in other engines, on images of any size."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowseg import flows_to_labels
from flowseg.arrays.intensity import normalize
from flowseg.cli import main
from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.inference.segmenter import Segmenter
from flowseg.network.cellpose import CellposeNetwork
from flowseg.network.checkpoint import Card, load_network, save_network
from flowseg.network.exported import export_program
from flowseg.network.unet import FlowNetwork

pytestmark = pytest.mark.slow

CELLS = {"any": CellTypeSettings(diameter=30.0, flow_threshold=0.0)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A network whose flows point anywhere, so that labels tell small differences."""
    config = NetworkConfig(channels=(4, 8, 8), blocks_per_level=1)
    network = FlowNetwork(config, 1, seed=3)
    with torch.no_grad():
        network.head.weight *= 300
        network.head.bias[2] = 0.5
    save_network(tmp_path / "net.safetensors", network.state_dict(), Card(config, CELLS))
    return tmp_path / "net.safetensors"


def outputs(network: Any, images: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        output = network(torch.from_numpy(images))
    flows = output.flows / network.config.flow_scale
    return [part.numpy() for part in (flows, output.cellprob, output.cell_type)]


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_it_computes_the_same_on_any_size(
    checkpoint: Path, tmp_path: Path, rng: np.random.Generator, format: str
) -> None:
    file = tmp_path / ("net.onnx" if format == "onnx" else "net.pt2")
    assert main(["export", "--weights", str(checkpoint), "--to", format, str(file)]) == 0
    network, card = load_network(checkpoint)
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(file)
        assert session.get_modelmeta().custom_metadata_map == {"flowseg": card.to_json()}

        def run(images: np.ndarray) -> Any:
            return session.run(["flows", "cellprob", "cell_type"], {"images": images})
    else:
        extra = {"flowseg.json": ""}
        program = torch.export.load(file, extra_files=extra)
        assert extra == {"flowseg.json": card.to_json()}

        def run(images: np.ndarray) -> Any:
            return [part.detach().numpy() for part in program.module()(torch.from_numpy(images))]

    for shape in ((1, 1, 16, 24), (3, 1, 72, 40), (1, 1, 104, 136)):
        images = rng.normal(size=shape).astype(np.float32)
        for found, expected in zip(run(images), outputs(network, images), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    image = rng.integers(0, 255, (104, 136), np.uint8)
    flows, cellprob, _ = run(normalize(image.astype(np.float32))[None, None])
    labels = flows_to_labels(flows[0], cellprob[0], flow_threshold=0.0)
    expected = Segmenter.load(checkpoint, "cpu", "float32").segment(image).labels
    assert labels.max() > 20
    np.testing.assert_array_equal(labels, expected)


def test_a_network_of_cellpose(rng: np.random.Generator) -> None:
    config = NetworkConfig(kind="cellpose", channels=(4, 8), stem_stride=1, input_channels=2)
    network = CellposeNetwork(config, 1).eval()
    program = export_program(network).module()
    images = rng.normal(size=(1, 2, 36, 52)).astype(np.float32)
    found = program(torch.from_numpy(images))
    for part, expected in zip(found, outputs(network, images), strict=True):
        np.testing.assert_allclose(part.detach().numpy(), expected, atol=1e-4, rtol=1e-4)


def test_without_the_package_one_line_says_so(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    file = tmp_path / "x.onnx"
    assert main(["export", "--weights", str(checkpoint), "--to", "onnx", str(file)]) == 2
    assert (
        "needs the package onnx; install it: pip install 'flowseg[onnx]'" in capsys.readouterr().err
    )
    assert not file.exists()
