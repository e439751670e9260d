"""Cellpose's size models: read beside a model, and used where a diameter is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.network.size_model import size_model_beside

PARAMETERS = {
    "A": np.array([[0.5, -1.0, 0.0]]),
    "smean": np.array([0.1, 0.2, 0.3]),
    "ymean": np.float64(-0.4),
    "diam_mean": 30.0,
}


def save(folder: Path, **changes: Any) -> Path:
    np.save(folder / "size_cyto_like.npy", {**PARAMETERS, **changes}, allow_pickle=True)
    return folder / "cyto_like"


def test_the_diameter_is_cellposes(tmp_path: Path) -> None:
    """cellpose 3.1.1.3: exp(A (style - smean) + log(diam_mean) + ymean), 5 at least."""
    model = size_model_beside(save(tmp_path), 3)
    assert model is not None
    style = np.array([0.6, 0.0, 0.8], np.float32)
    expected = math.exp(0.5 * 0.5 + 1.0 * 0.2 + math.log(30) - 0.4)
    assert model.diameter(style) == pytest.approx(expected)
    assert model.diameter(np.array([0.0, 9.0, 0.0], np.float32)) == 5.0
    converted = size_model_beside(tmp_path / "cyto_like.safetensors", 3)
    assert converted is not None


def test_where_there_is_none(tmp_path: Path) -> None:
    assert size_model_beside(tmp_path / "cyto_like", 3) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": np.zeros(4)}, "styles of 4 numbers, not 3"),
        ({"A": "x"}, "is no size model"),
        ({"ymean": []}, "is no size model"),
        ({"smean": np.array([0, np.nan, 0])}, "styles of 3"),
        ({"A": Path("x")}, "is no size model"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FlowsegError, match=message):
        size_model_beside(save(tmp_path, **changes), 3)


def test_nothing_in_it_is_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    with pytest.raises(FlowsegError, match="it was not executed"):
        size_model_beside(save(tmp_path, A=Bomb()), 3)
    assert not (tmp_path / "executed").exists()
