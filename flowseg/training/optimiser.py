"""How weights follow their gradients: Muon for the kernels of convolutions, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowseg.network.unet import FlowNetwork

__all__ = ["Muon", "optimisers", "set_state", "state_of"]

_MOMENTUM = 0.95
_ROUNDS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at zero: small singular values grow fastest
_SIZE = 0.2  # root mean square of an update at rate 1, about that of AdamW


class Muon(torch.optim.Optimizer):
    """Momentum whose every direction is made equally long before it is followed.

    A kernel is taken as a matrix of its outputs by all that each sees. Of the singular values of a
    momentum few are large; brought near 1, the small ones teach as much.

    Parameters
    ----------
    kernels : iterable of Tensor
        Of two dimensions or more.
    weight_decay : float
        As of AdamW.
    dtype : torch.dtype
        In which matrices are multiplied; bfloat16 is precise enough, and faster where it is native.

    References
    ----------
    .. [1] Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: the
       iteration and its numbers.
    .. [2] Liu et al., "Muon is Scalable for LLM Training", 2025, section 2.2: the size of an
       update, by which one rate suits both Muon and AdamW.
    """

    def __init__(
        self, kernels: Iterable[Tensor], weight_decay: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(kernels, {"lr": 0.0, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Move every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["momentum"] = torch.zeros_like(kernel)
                momentum = state["momentum"].lerp_(kernel.grad, 1 - _MOMENTUM)
                ahead = kernel.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
                matrix = _orthogonal(ahead.flatten(1).to(self._dtype)).to(kernel.dtype)
                length = _SIZE * max(matrix.shape) ** 0.5
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.add_(matrix.view(kernel.shape), alpha=-group["lr"] * length)


def optimisers(
    network: FlowNetwork, weight_decay: float, dtype: torch.dtype
) -> dict[str, torch.optim.Optimizer]:
    """Those of a network, by name; each weight belongs to one.

    Muon moves the kernels between hidden channels. First and last layers, norms and biases are
    left to AdamW: they have no square of directions to even out.
    """
    ends = {network.stem.weight, network.head.weight, network.type_head.weight}
    kernels = [p for p in network.parameters() if p.ndim > 1 and p not in ends]
    rest = [p for p in network.parameters() if p.ndim == 1 or p in ends]
    fused = rest[0].device.type in ("cpu", "cuda")
    return {
        "muon": Muon(kernels, weight_decay, dtype),
        "adamw": torch.optim.AdamW(rest, weight_decay=weight_decay, fused=fused),
    }


def state_of(optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """What they remember, each tensor by the optimiser's name, the weight's number and its own."""
    return {
        f"{name}.{index}.{key}": value
        for name, optimiser in optimisers.items()
        for index, values in optimiser.state_dict()["state"].items()
        for key, value in values.items()
    }


def set_state(
    optimisers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Give back what :func:`state_of` took; tensors of other names are not looked at.

    Raises
    ------
    ValueError, LookupError, RuntimeError
        If a tensor does not fit.
    """
    for name, optimiser in optimisers.items():
        weights = [weight for group in optimiser.param_groups for weight in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for place, tensor in tensors.items():
            if place.startswith(f"{name}."):
                index, key = place.removeprefix(f"{name}.").split(".")
                # Laid out in memory as the weight is: the fused AdamW walks weight and moments
                # side by side, whatever their strides say. A copy in any case: what was read is a
                # view of the file, which will be replaced.
                home = torch.empty_like(weights[int(index)] if tensor.ndim else tensor)
                state.setdefault(int(index), {})[key] = home.copy_(tensor)
        optimiser.load_state_dict(
            {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
        )


def _orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values moved to between about 0.7 and 1.2."""
    turned = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if turned else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    found: Tensor = x.mT if turned else x
    return found
