"""The notebooks in examples/ run from top to bottom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
nbformat = pytest.importorskip("nbformat", reason="needs nbformat")

EXAMPLES = Path(__file__).parents[1] / "examples"
CELLPOSE = Path(__file__).parent / "network" / "cellpose_reference.npz"
TINY = (
    "network.channels=[4,8] network.blocks_per_level=1 augment.crop_size=64 "
    "training.crops_per_epoch=8 training.batch_size=4 data.folds=2 tta=1"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="not in a checkout"),
]


def run(name: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """Execute a notebook; what it printed."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    document: Any = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(document)
    assert not any(cell.get("outputs") for cell in document.cells), "committed without outputs"
    nbclient.NotebookClient(document, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in document.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


def test_all_are_run() -> None:
    names = {"competition", "flow_field", "from_cellpose", "ten_images"}
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == names


def test_the_flow_field(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("flow_field", monkeypatch)
    assert "score 1.0" in text
    assert "noise 1.00" in text


def test_ten_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = run("ten_images", monkeypatch, WORK=str(tmp_path), EPOCHS="1", SETTINGS=TINY)
    assert "images that it was not trained on" in text
    assert "cells in 10 images" in text


def test_the_competition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = run("competition", monkeypatch, WORK=str(tmp_path), EPOCHS="1", SETTINGS=TINY)
    assert "cells in 2 images\nvalid" in text


def test_from_cellpose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start, arrays = "two/weight/", np.load(CELLPOSE)
    weights = {k.removeprefix(start): torch.from_numpy(arrays[k]) for k in arrays.files}
    keys = [key.removeprefix(start) for key in arrays.files if key.startswith(start)]
    torch.save({key: weights[key] for key in keys}, tmp_path / "cyto")
    model = str(tmp_path / "cyto")
    text = run("from_cellpose", monkeypatch, WORK=str(tmp_path / "work"), MODEL=model)
    assert "the same labels: True" in text
