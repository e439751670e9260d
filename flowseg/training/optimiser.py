"""Optimisers: Muon for the kernels of hidden convolutions, AdamW for the rest; learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowseg.config.schema import ScheduleConfig
from flowseg.network.architecture import Architecture

_MOMENTUM = 0.95
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at zero: small singular values grow fastest
_STATE = {"muon": {"momentum"}, "adamw": {"step", "exp_avg", "exp_avg_sq"}}
_RMS = 0.2  # root mean square of an update at rate 1, about that of AdamW


def learning_rate(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """The learning rate of one of `steps` steps: a linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(schedule.warmup_fraction * steps))
    if step < warmup:
        return schedule.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return schedule.learning_rate * (1 + math.cos(math.pi * progress)) / 2


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by Newton-Schulz iterations before each step.

    A kernel counts as a matrix: its output channels by all else. Of the singular values of a
    momentum few are large; brought near 1, the small ones teach as much. (torch's own Muon takes
    matrices only, and came after the oldest torch that flowseg works with.) The matrix products
    are computed in `dtype`: bfloat16 is precise enough, and faster where it is native. Matrices of
    the same shorter side are one batch, so that a GPU starts few kernels.

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
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            for kernel in kernels:
                if not self.state[kernel]:
                    self.state[kernel]["momentum"] = torch.zeros_like(kernel)
            gradients = [kernel.grad for kernel in kernels]
            momenta = [self.state[kernel]["momentum"] for kernel in kernels]
            torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, _MOMENTUM)  # Nesterov's
            torch._foreach_mul_(kernels, 1 - group["lr"] * group["weight_decay"])
            for batch in _batches(kernels):
                self._move([kernels[k] for k in batch], [ahead[k] for k in batch], group["lr"])

    def _move(self, kernels: list[Tensor], ahead: list[Tensor], rate: float) -> None:
        """Move kernels whose matrices have the same shorter side."""
        shapes = [_matrix_shape(kernel) for kernel in kernels]
        size = (len(kernels), min(shapes[0]), max(map(max, shapes)))
        # Columns of zeros make the matrices equally long; their singular values are the same.
        stack = torch.zeros(size, dtype=self._dtype, device=kernels[0].device)
        torch._foreach_copy_(_as_kernels(stack, kernels), ahead)
        stack = _orthogonalise(stack).to(kernels[0].dtype)
        lengths = [_RMS * max(shape) ** 0.5 for shape in shapes]
        updates = torch._foreach_mul(_as_kernels(stack, kernels), lengths)
        torch._foreach_add_(kernels, updates, alpha=-rate)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the kernels between hidden channels, AdamW for all other weights of a network.

    First and last layers, norms and biases are no matrices between hidden channels. The two are
    one optimiser for `torch.amp.GradScaler`: after an overflow of float16 neither steps.
    """

    def __init__(self, network: Architecture, weight_decay: float, dtype: torch.dtype) -> None:
        weights, ends = list(network.parameters()), network.ends
        kernels = [weight for weight in weights if weight.ndim > 1 and weight not in ends]
        rest = [weight for weight in weights if weight.ndim == 1 or weight in ends]
        fused = rest[0].device.type in ("cpu", "cuda")
        self.parts: dict[str, torch.optim.Optimizer] = {
            "muon": Muon(kernels, weight_decay, dtype),
            "adamw": torch.optim.AdamW(rest, weight_decay=weight_decay, fused=fused),
        }
        super().__init__([{"params": kernels}, {"params": rest}], {})

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of both."""
        for part in self.parts.values():
            for group in part.param_groups:
                group["lr"] = rate

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Move every weight that has a gradient."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of each part: by the number of the weight, then by the name of the tensor."""
        states = {name: part.state_dict()["state"] for name, part in self.parts.items()}
        return {name: {str(k): state[k] for k in state} for name, state in states.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned; ValueError or LookupError if it does not fit."""
        if not any(state_dict.values()):  # as it was before the first step
            return
        if state_dict.keys() != self.parts.keys():
            raise LookupError(f"no state of {self.parts.keys()}")
        for name, part in self.parts.items():
            weights = [w for group in part.param_groups for w in group["params"]]
            state = {
                k: {
                    key: _like(value, key, weight)
                    for key, value in state_dict[name][str(k)].items()
                }
                for k, weight in enumerate(weights)
            }
            complete = all(tensors.keys() == _STATE[name] for tensors in state.values())
            if not complete or len(state_dict[name]) != len(weights):
                raise ValueError(f"the state of {name} lacks tensors or has others")
            groups = part.state_dict()["param_groups"]
            part.load_state_dict({"state": state, "param_groups": groups})


def _like(value: Tensor, key: str, weight: Tensor) -> Tensor:
    """A copy of a tensor of the state, laid out in memory as its weight is."""
    if value.shape != (torch.Size() if key == "step" else weight.shape):
        raise ValueError(f"{key} has the shape {tuple(value.shape)}")
    return torch.empty_like(value if key == "step" else weight).copy_(value)


def _matrix_shape(kernel: Tensor) -> tuple[int, int]:
    """Output channels, and all else."""
    return kernel.shape[0], kernel[0].numel()


def _batches(kernels: list[Tensor]) -> list[list[int]]:
    """The indices of kernels by the shorter side of their matrices."""
    batches: dict[int, list[int]] = {}
    for k, kernel in enumerate(kernels):
        batches.setdefault(min(_matrix_shape(kernel)), []).append(k)
    return list(batches.values())


def _as_kernels(stack: Tensor, kernels: list[Tensor]) -> list[Tensor]:
    """Views of a stack of matrices, (B, short, long), in the shapes of kernels; tall ones lie."""
    views = []
    for matrix, kernel in zip(stack, kernels, strict=True):
        rows, columns = _matrix_shape(kernel)
        upright = matrix.mT if rows > columns else matrix
        views.append(upright[:rows, :columns].unflatten(1, kernel.shape[1:]))
    return views


def _orthogonalise(stack: Tensor) -> Tensor:
    """Matrices with singular values moved to about 1, but for those that are almost zero."""
    x: Tensor = stack / (torch.linalg.vector_norm(stack, dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x
