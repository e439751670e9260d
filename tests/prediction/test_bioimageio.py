"""A package of the BioImage Model Zoo passes the zoo's own test, and gives the same labels."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flowseg import flows_to_labels
from flowseg.cli import main
from flowseg.config.schema import CellTypeSettings, NetworkConfig, NormalizationConfig
from flowseg.inference.segmenter import Segmenter
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.unet import FlowNetwork

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of other packages
]

CELLS = {"any": CellTypeSettings(diameter=30.0, flow_threshold=0.0)}


def checkpoint(folder: Path, normalization: NormalizationConfig) -> Path:
    """A network whose flows point anywhere, so that labels tell small differences."""
    config = NetworkConfig(channels=(4, 8, 8), blocks_per_level=1)
    network = FlowNetwork(config, 1, seed=3)
    with torch.no_grad():
        network.head.weight *= 300
        network.head.bias[2] = 0.5
    card = Card(config, CELLS, {"license": "BSD-3-Clause", "data": "drawn"}, normalization)
    save_network(folder / "net.safetensors", network.state_dict(), card)
    return folder / "net.safetensors"


@pytest.mark.parametrize(
    "normalization",
    [NormalizationConfig(), NormalizationConfig(range=(10.0, 200.0))],
    ids=["percentiles", "range"],
)
def test_it_passes_and_gives_the_same_labels(
    tmp_path: Path, rng: np.random.Generator, normalization: NormalizationConfig
) -> None:
    core = pytest.importorskip("bioimageio.core")
    model, file = checkpoint(tmp_path, normalization), tmp_path / "net.zip"
    assert main(["export", "--weights", str(model), "--to", "bioimageio", str(file)]) == 0
    summary = core.test_model(file)
    assert summary.status == "passed", summary.format()
    image = rng.integers(0, 255, (104, 136), np.uint8)
    output = core.predict(model=file, inputs={"images": image[None, None].astype(np.float32)})
    flows, cellprob = (output.members[name].data.values[0] for name in ("flows", "cellprob"))
    labels = flows_to_labels(flows, cellprob, flow_threshold=0.0)
    expected = Segmenter.load(model, "cpu", "float32").segment(image).labels
    assert expected.max() > 20
    agreement = np.mean(labels == expected)
    assert agreement > 0.999  # the zoo adds 1e-6 to the span of intensities
    description = core.load_model_description(file, format_version="latest")
    assert str(description.license) == "BSD-3-Clause"
    gc.collect()  # files that the zoo's packages leave open would warn in another test


def test_without_the_package_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = checkpoint(tmp_path, NormalizationConfig()), tmp_path / "x.zip"
    monkeypatch.setitem(sys.modules, "bioimageio.spec", None)
    assert main(["export", "--weights", str(model), "--to", "bioimageio", str(file)]) == 2
    assert "pip install 'flowseg[bioimageio]'" in capsys.readouterr().err
    assert not file.exists()
