"""Devices that are asked for by name are there or refused."""

from __future__ import annotations

import pytest
import torch

from flowseg.errors import FlowsegError
from flowseg.network import device
from flowseg.network.device import (
    auto_precision,
    compute_exactly,
    gpu_problems,
    memory_format,
    pick_device,
    pick_precision,
)


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
    "cause",
    [
        "CUDA error: no kernel image is available for execution on the device\nCompile with ...",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    ],
)
def test_a_card_that_cannot_compute_is_passed_over_or_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(cause)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P100")
    monkeypatch.setattr(torch, "ones", fail)
    device._problem.cache_clear()
    first = cause.split("\n", maxsplit=1)[0]
    assert pick_device("auto") == torch.device("cpu")
    assert f"cannot use the Tesla P100 (cuda): {first}" in caplog.text
    with pytest.raises(FlowsegError, match=r"Tesla P100.*use --device cpu"):
        pick_device("cuda")
    assert [first in problem for problem in gpu_problems()] == [True]
    device._problem.cache_clear()


@pytest.mark.parametrize(
    ("built", "expected"), [(None, "is built without CUDA"), ("13.0", "the driver knows CUDA 13.0")]
)
def test_a_driver_without_a_card_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, built: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(device.shutil, "which", lambda _: None)
    assert gpu_problems() == []
    monkeypatch.setattr(device.shutil, "which", lambda name: f"bin/{name}")
    assert [expected in problem for problem in gpu_problems()] == [True]


@pytest.mark.parametrize(
    ("name", "capability", "expected"),
    [
        ("NVIDIA H100", (9, 0), torch.bfloat16),
        ("Tesla T4", (7, 5), torch.float16),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), torch.float32),
        ("Tesla P100", (6, 0), torch.float32),
    ],
)
def test_precision_of_a_card(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert pick_precision("auto", torch.device("cuda")) == expected
    reason = auto_precision(torch.device("cuda"))[1]
    assert ("NaN on GTX 16" in reason) == ("GTX 16" in name)
    assert ("computes it natively" in reason) == (expected == torch.bfloat16)
    assert pick_precision("float32", torch.device("cuda")) == torch.float32


def test_mps_has_the_layout_that_it_computes_right() -> None:
    assert memory_format(torch.device("mps")) == torch.contiguous_format
    assert memory_format(torch.device("cpu")) == torch.channels_last


def test_cuda_repeats_its_bits_in_training_and_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    for name in ("deterministic", "benchmark", "allow_tf32"):
        monkeypatch.setattr(cudnn, name, getattr(cudnn, name))  # put back afterwards
    cudnn.deterministic, cudnn.benchmark = False, True
    compute_exactly(torch.device("cpu"))
    assert cudnn.benchmark
    compute_exactly(torch.device("cuda"))
    assert cudnn.deterministic
    assert not cudnn.benchmark
    assert not cudnn.allow_tf32
