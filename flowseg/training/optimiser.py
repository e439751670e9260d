"""How weights follow their gradients: Muon for the kernels of convolutions, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowseg.network.unet import FlowNetwork

__all__ = ["Muon", "MuonAdamW"]

_MOMENTUM = 0.95
_ROUNDS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at zero: small singular values grow fastest
_REMEMBERED = {"muon": {"momentum"}, "adamw": {"step", "exp_avg", "exp_avg_sq"}}
_SIZE = 0.2  # root mean square of an update at rate 1, about that of AdamW


class Muon(torch.optim.Optimizer):
    """Momentum whose every direction is made equally long before it is followed.

    A kernel is taken as a matrix of its outputs by all that each sees. Of the singular values of a
    momentum few are large; brought near 1, the small ones teach as much. (torch's own Muon refuses
    whatever has not two dimensions, and came after the oldest torch that flowseg works with.)

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


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the kernels between hidden channels, AdamW for all other weights of a network.

    First and last layers, norms and biases have no square of directions to even out. The two are
    one for `torch.amp.GradScaler`: after an overflow of float16 neither steps.

    Parameters
    ----------
    network : FlowNetwork
        Whose weights it moves.
    weight_decay : float
        Of both.
    dtype : torch.dtype
        As in :class:`Muon`.
    """

    def __init__(self, network: FlowNetwork, weight_decay: float, dtype: torch.dtype) -> None:
        ends = {network.stem.weight, network.head.weight, network.type_head.weight}
        weights = list(network.parameters())
        kernels = [weight for weight in weights if weight.ndim > 1 and weight not in ends]
        rest = [weight for weight in weights if weight.ndim == 1 or weight in ends]
        fused = rest[0].device.type in ("cpu", "cuda")
        self.parts: dict[str, torch.optim.Optimizer] = {
            "muon": Muon(kernels, weight_decay, dtype),
            "adamw": torch.optim.AdamW(rest, weight_decay=weight_decay, fused=fused),
        }
        super().__init__([{"params": kernels}, {"params": rest}], {})

    def set_rate(self, rate: float) -> None:
        """The rate of the next step."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = rate

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Move every weight that has a gradient."""
        for part in self.parts.values():
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers: each tensor by its part, its weight's number and its own name."""
        return {
            f"{name}.{index}.{key}": value
            for name, part in self.parts.items()
            for index, values in part.state_dict()["state"].items()
            for key, value in values.items()
        }

    def take_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with what :meth:`tensors` gave, after no step or after any.

        Raises
        ------
        ValueError, LookupError, RuntimeError
            If they are not all that it needs, or more, or of other shapes.
        """
        states: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in self.parts}
        for place, tensor in tensors.items():
            name, number, key = place.split(".")
            weight = self._weights(name)[int(number)]
            if tensor.shape != (torch.Size() if key == "step" else weight.shape):
                raise ValueError(f"{place} has the shape {tuple(tensor.shape)}")
            # Laid out in memory as the weight is. A copy: what was read is a view of the file.
            home = torch.empty_like(tensor if key == "step" else weight)
            states[name].setdefault(int(number), {})[key] = home.copy_(tensor)
        for name, part in self.parts.items():
            kept = [set(values) for values in states[name].values()]
            if tensors and kept != [_REMEMBERED[name]] * len(self._weights(name)):
                raise ValueError(f"{name} lacks what it should remember")
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": states[name], "param_groups": groups})

    def _weights(self, part: str) -> list[Tensor]:
        return [w for group in self.parts[part].param_groups for w in group["params"]]


def _orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values moved to about 1, but for those that are almost zero."""
    turned = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if turned else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    found: Tensor = x.mT if turned else x
    return found
