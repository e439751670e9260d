"""Device and precision: names to `torch.device` and `torch.dtype`; what each device needs."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from functools import cache

import torch

from flowseg.config.schema import Precision
from flowseg.errors import FlowsegError

_log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    A GPU is tried before it is taken. One that cannot compute is passed over by "auto", with a
    warning; named, it raises FlowsegError.
    """
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        for gpu in (torch.device(kind) for kind, is_there in there.items() if is_there):
            if (problem := _problem(gpu)) is None:
                return gpu
            _log.warning("computing on the CPU: %s", problem)
        return torch.device("cpu")
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
    if problem := _problem(device):
        raise FlowsegError(problem, remedy="use --device cpu, or install the torch for this card")
    return device


def pick_precision(name: Precision, device: torch.device) -> torch.dtype:
    """The dtype of the convolutions on `device`.

    "auto" is bfloat16 where the device computes it natively, float16 on older CUDA cards with
    tensor cores (compute capability 7), else float32. (GTX 16 cards have that capability, no tensor
    cores, and give NaN in float16: pytorch issue 58123.)
    """
    return auto_precision(device)[0] if name == "auto" else _DTYPES[name]


def auto_precision(device: torch.device) -> tuple[torch.dtype, str]:
    """What "auto" means for :func:`pick_precision` on `device`, and why, in words."""
    if device.type == "cuda":
        major = torch.cuda.get_device_capability(device)[0]
        if major >= 8:
            return torch.bfloat16, "the card computes it natively"
        if "GTX 16" in torch.cuda.get_device_name(device):
            return torch.float32, "float16 gives NaN on GTX 16 cards"
        if major == 7:
            return torch.float16, "the card's tensor cores compute it, and no bfloat16"
        return torch.float32, "the card has no tensor cores"
    if device.type != "cpu":
        return torch.float32, "the safe choice on this GPU"
    if _cpu_has_bfloat16():
        return torch.bfloat16, "the processor computes it natively"
    return torch.float32, "the processor has no bfloat16"


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """A context in which the network's convolutions run in `dtype`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def memory_format(device: torch.device) -> torch.memory_format:
    """How networks and images lie in memory on a device.

    Channels last is the fastest; on Apple's MPS it gives wrong gradients (pytorch issue 175189).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def compute_exactly(device: torch.device) -> None:
    """Have cuDNN repeat its results bit for bit, and compute float32 as float32, not as TF32.

    These are settings of the whole process, so that training and prediction agree.
    """
    if device.type != "cuda":
        return
    cudnn = torch.backends.cudnn
    # Else sums whose order changes from run to run may be chosen.
    cudnn.deterministic, cudnn.benchmark = True, False
    cudnn.allow_tf32 = False


def gpu_problems() -> list[str]:
    """Why GPUs of this machine cannot be used; a sentence for each problem."""
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    found = [_problem(torch.device(kind)) for kind, is_there in kinds.items() if is_there]
    # The driver's own program is there, so a card should be.
    if not kinds["cuda"] and shutil.which("nvidia-smi") is not None:
        built = torch.version.cuda
        found.append(
            f"there is an NVIDIA driver, but torch {torch.__version__} is built without CUDA"
            if built is None
            else f"there is an NVIDIA driver, but torch {torch.__version__} finds no card: "
            f"nvidia-smi tells whether there is one, and whether the driver knows CUDA {built}"
        )
    return [problem for problem in found if problem is not None]


@cache
def _problem(device: torch.device) -> str | None:
    """Why a GPU that is there cannot compute, found out by a small convolution; None if it can."""
    if device.type == "cpu":
        return None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple's GPU"
    try:
        image = torch.ones((1, 1, 4, 4), device=device)
        total = float(torch.nn.functional.conv2d(image, torch.ones_like(image)).sum())
    except RuntimeError as error:
        cause = str(error).strip().split("\n", maxsplit=1)[0]
        return f"torch {torch.__version__} cannot use the {name} ({device}): {cause}"
    return None if total == 16 else f"the {name} ({device}) computes wrong sums"


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
