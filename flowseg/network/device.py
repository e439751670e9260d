"""Device and precision: names to `torch.device` and `torch.dtype`, torchrun's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from flowseg.config.schema import Precision
from flowseg.errors import FlowsegError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then Apple's MPS, then the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise FlowsegError(
            f"unknown device {name!r}", remedy="choose auto, cpu, cuda, cuda:1 or mps"
        ) from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(device.type, False):
        raise FlowsegError(
            f"the device {name!r} was asked for, and this machine or this build of torch "
            f"{torch.__version__} has none",
            remedy="use --device auto or --device cpu",
        )
    return device


def pick_precision(name: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the convolutions on `device`.

    "auto" is bfloat16 where the device computes it natively, float16 on older CUDA cards with
    tensor cores (compute capability 7), else float32.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if major >= 8:
            return torch.bfloat16
        return torch.float16 if major == 7 else torch.float32
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which the network's convolutions run in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    if "AVX512" not in capabilities:
        return False
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe is not None and probe())


def local_device(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The device of this rank: under torchrun each takes the CUDA device of its local rank."""
    if name not in ("auto", "cuda") or "LOCAL_RANK" not in environment:
        return name
    return f"cuda:{environment['LOCAL_RANK']}" if torch.cuda.is_available() else name


def torchrun_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Rank and world size of this process under torchrun, None outside it or where it is alone."""
    size = int(environment.get("WORLD_SIZE", "1"))
    return (int(environment["RANK"]), size) if size > 1 and "RANK" in environment else None
