"""Devices that are asked for by name are there or refused."""

from __future__ import annotations

import pytest
import torch

from flowseg.errors import FlowsegError
from flowseg.network.device import pick_device, pick_precision


def test_auto_finds_one() -> None:
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_device("cpu") == torch.device("cpu")


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FlowsegError, match="has none; use --device auto"):
        pick_device("cuda")
    with pytest.raises(FlowsegError, match="unknown device 'gpu'"):
        pick_device("gpu")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 0), torch.float32)],
)
def test_precision_of_a_card(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert pick_precision("auto", torch.device("cuda")) == expected
    assert pick_precision("float32", torch.device("cuda")) == torch.float32
