"""The device of dynamics, residuals and diffusion: Numba on the CPU, Triton on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError

Floats = NDArray[np.float32]


class FieldLoops(NamedTuple):
    """The loops over one flow field, on its device.

    Attributes
    ----------
    follow_flows : callable
        From (threshold, niter) to basins, as :func:`flowseg.flow.dynamics.follow_flows`.
    flow_residuals : callable
        From (table, offsets) to sums, as :func:`flowseg.flow.residuals.flow_residuals`.
    """

    follow_flows: Callable[[float, int], NDArray[np.int32]]
    flow_residuals: Callable[[NDArray[np.int32], NDArray[np.int64]], NDArray[np.float64]]


def field_loops(flows: Floats, cellprob: Floats, device: str, on_device: Any = None) -> FieldLoops:
    """The loops over a flow field on a device.

    Parameters
    ----------
    flows : (2, H, W) float32
    cellprob : (H, W) float32
    device : str
        `cpu` or a CUDA device.
    on_device : tensor (3, H, W), optional
        Flows and cellprob, if they are on that device already; else they are copied there.

    Raises
    ------
    FlowsegError
        Where there is no such device, or no Triton to compile for it.
    """
    if device == "cpu":
        from flowseg.flow import dynamics, residuals

        return FieldLoops(
            partial(dynamics.follow_flows, flows, cellprob),
            partial(residuals.flow_residuals, flows=flows),
        )
    cuda = _cuda(device)
    maps = cuda.to_device(np.stack((*flows, cellprob)), device) if on_device is None else on_device
    return FieldLoops(
        _on(device, partial(cuda.follow_flows, flows, maps)),
        _on(device, partial(cuda.flow_residuals, maps)),
    )


def diffuser(device: str) -> Callable[..., None]:
    """`flowseg.flow.diffusion.diffuse` of a device; errors as for :func:`field_loops`."""
    if device == "cpu":
        from flowseg.flow import diffusion

        return diffusion.diffuse
    return _on(device, partial(_cuda(device).diffuse, device=device))


def _cuda(device: str) -> Any:
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        raise FlowsegError(f"there is no device {device!r} for the dynamics", remedy="take cpu")
    try:
        from flowseg.flow import cuda
    except ImportError as error:
        raise FlowsegError(
            f"the dynamics on {device} need Triton ({error})", remedy="install it, or take cpu"
        ) from error
    return cuda


def _on(device: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Triton starts its kernels on the thread's current device, which may be another one."""
    import torch

    def on_device(*arguments: Any) -> Any:
        with torch.cuda.device(device):
            return function(*arguments)

    return on_device
