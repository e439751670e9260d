"""Which of the two long loops run where: Numba on the CPU, Triton on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flowseg.errors import FlowsegError

__all__ = ["Kernels", "kernels"]


class Kernels(NamedTuple):
    """The loops of one device: `flowseg.flow.basins.find_basins` and `.diffusion.diffuse`."""

    find_basins: Callable[..., Any]
    diffuse: Callable[..., None]


def kernels(device: str) -> Kernels:
    """The loops that run on a device.

    Parameters
    ----------
    device : str
        `cpu` or a CUDA device.

    Raises
    ------
    FlowsegError
        Where there is no such device, or no Triton to compile for it.
    """
    if device == "cpu":
        from flowseg.flow import basins, diffusion

        return Kernels(basins.find_basins, diffusion.diffuse)
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        raise FlowsegError(f"there is no device {device!r} for the dynamics", remedy="take cpu")
    try:
        from flowseg.flow import cuda
    except ImportError as error:
        raise FlowsegError(
            f"the dynamics on {device} need Triton ({error})", remedy="install it, or take cpu"
        ) from error
    return Kernels(partial(cuda.find_basins, device=device), partial(cuda.diffuse, device=device))
