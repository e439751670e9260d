"""A nested state in one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowseg.network.checkpoint import save_tensors
from flowseg.training.state import read_state, write_state


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    weight = torch.arange(3.0)
    rows = [{"epoch": 1, "loss": 0.1}]
    state = {"a": {"b.c": {"0": {"weight": weight}}, "count": 3}, "rows": rows, "best": None}
    write_state(path, state | {"empty": {}})
    found = read_state(path)
    assert torch.equal(found["a"]["b.c"]["0"].pop("weight"), weight)
    assert found == {"a": {"b.c": {"0": {}}, "count": 3}, "rows": rows, "best": None}


@pytest.mark.parametrize("text", ["", "{", "3", '{"a/b/c": 1}'])
def test_another_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a/b": torch.zeros(1)}, text)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        read_state(path)
