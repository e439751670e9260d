"""Muon: directions evened out, sizes as promised, every weight moved by one optimiser."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from flowseg.network.unet import FlowNetwork
from flowseg.training.optimiser import Muon, MuonAdamW, _orthogonalise, learning_rate
from helpers.training import CONFIG, network

SHAPES = [(8, 8), (4, 36), (36, 4), (32, 288), (16, 8, 3, 3)]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_become_alike(
    shape: tuple[int, int], scale: float, dtype: torch.dtype
) -> None:
    matrix = drawn(*shape) * torch.logspace(0, -1, shape[1]) * scale
    found = _orthogonalise(matrix.to(dtype)[None])[0].float()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    assert values.max() > 1.5 * values.min()
    # Those of a square matrix that are almost zero stay small.
    seen = torch.diagonal(left.mT @ found @ right.mT)[values > 0.05 * values.max()]
    assert seen.min() > 0.6
    assert seen.max() < 1.3


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_has_the_size_of_one_of_adamw(shape: tuple[int, ...]) -> None:
    kernel = torch.nn.Parameter(torch.zeros(shape))
    muon = Muon([kernel], weight_decay=0.0)
    muon.param_groups[0]["lr"] = 0.1
    kernel.grad = 1e3 * drawn(*shape)
    muon.step()
    assert 0.1 * 0.1 < kernel.square().mean().sqrt() < 0.1 * 0.3
    assert (kernel * kernel.grad).sum() < 0


def test_kernels_move_together_as_they_would_alone() -> None:
    def moved(shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
        kernels = [torch.nn.Parameter(drawn(*shape)) for shape in shapes]
        muon = Muon(kernels, weight_decay=0.1)
        muon.param_groups[0]["lr"] = 0.3
        for step in range(3):
            for kernel in kernels:
                kernel.grad = drawn(*kernel.shape) + step
            muon.step()
        return [kernel.detach() for kernel in kernels]

    shapes = [*SHAPES, (64, 8), (8, 64), (16, 16, 1, 1), (4, 4, 3, 3)]
    for together, shape in zip(moved(shapes), shapes, strict=True):
        torch.testing.assert_close(together, moved([shape])[0], rtol=0, atol=1e-5)


def test_weights_decay_and_those_without_gradient_stay() -> None:
    moved, still = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    muon = Muon([moved, still], weight_decay=0.5)
    muon.param_groups[0]["lr"] = 0.1
    moved.grad = torch.zeros(3, 3)
    muon.step()
    torch.testing.assert_close(moved.detach(), torch.full((3, 3), 0.95))
    assert torch.equal(still.detach(), torch.ones(3, 3))


def test_it_learns_what_is_hidden_behind_a_large_direction() -> None:
    # Inputs vary a hundred times as much along one axis as along the others.
    inputs = drawn(64, 6) * torch.tensor([100.0, 1, 1, 1, 1, 1])
    wanted = inputs @ drawn(6, 5)
    kernel = torch.nn.Parameter(torch.zeros(6, 5))
    muon = Muon([kernel], weight_decay=0.0)
    for step in range(200):
        muon.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        kernel.grad = None
        (inputs @ kernel - wanted).square().mean().backward()
        muon.step()
    rest = (kernel - drawn(6, 5)).detach()
    assert rest.abs().max() < 0.2  # 0.07 to 0.14, as the last bits fall


def rested(seed: int = 1) -> tuple[FlowNetwork, MuonAdamW]:
    model = network(seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, MuonAdamW(model, 0.01, torch.float32)


def take_steps(model: FlowNetwork, optimiser: MuonAdamW, count: int) -> None:
    for step in range(count):
        for number, weight in enumerate(model.parameters()):
            weight.grad = drawn(*weight.shape) * (number + step)
        optimiser.set_learning_rate(0.01)
        optimiser.step()


def test_every_weight_is_moved_by_one_part() -> None:
    model, optimiser = rested()
    owned = [w for part in optimiser.parts.values() for g in part.param_groups for w in g["params"]]
    assert len(owned) == len(set(owned)) == len(list(model.parameters()))
    kernels = optimiser.parts["muon"].param_groups[0]["params"]
    assert all(kernel.ndim == 4 for kernel in kernels)
    assert not {model.stem.weight, model.head.weight} & set(kernels)
    before = [weight.clone() for weight in model.parameters()]
    take_steps(model, optimiser, 2)
    assert not any(map(torch.equal, before, model.parameters()))


def test_it_goes_on_where_it_was() -> None:
    model, optimiser = rested()
    take_steps(model, optimiser, 2)
    other, again = rested()
    other.load_state_dict(model.state_dict())
    state = optimiser.state_dict()
    for tensors in (tensors for part in state.values() for tensors in part.values()):
        tensors |= {key: value.contiguous() for key, value in tensors.items()}
    again.load_state_dict(state)
    for one in (again.parts["muon"], again.parts["adamw"]):
        for weight, values in one.state.items():
            assert all(v.stride() == weight.stride() for v in values.values() if v.ndim)
    take_steps(model, optimiser, 3)
    take_steps(other, again, 3)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    rested()[1].load_state_dict(rested()[1].state_dict())
    rested()[1].load_state_dict({})


@pytest.mark.parametrize(
    ("part", "weight", "name"),
    [("muon", "0", "momentum"), ("adamw", "3", "exp_avg"), ("adamw", "3", "step")],
)
def test_a_part_of_its_state_is_refused(part: str, weight: str, name: str) -> None:
    model, optimiser = rested()
    take_steps(model, optimiser, 1)
    state = optimiser.state_dict()
    optimiser.load_state_dict(state)
    tensors = state[part][weight]
    tensor = tensors.pop(name)
    with pytest.raises(ValueError, match="lacks"):
        optimiser.load_state_dict(state)
    for other in (tensor[None], tensor.sum(), tensor[:1]) if tensor.ndim else (torch.zeros(3),):
        if other.shape != tensor.shape:
            tensors[name] = other
            with pytest.raises(ValueError, match="shape"):
                optimiser.load_state_dict(state)
    tensors[name] = tensor
    tensors["other"] = tensor
    with pytest.raises(ValueError, match="other"):
        optimiser.load_state_dict(state)
    del tensors["other"]
    with pytest.raises(LookupError):
        optimiser.load_state_dict({part: state[part]})
    del state[part][weight]
    with pytest.raises(LookupError):
        optimiser.load_state_dict(state)


def test_after_an_overflow_no_weight_moves() -> None:
    model, optimiser = rested()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for overflow in (True, False):
        before = [weight.clone() for weight in model.parameters()]
        scaler.scale(torch.zeros(1, requires_grad=True)).sum().backward()  # type: ignore
        for weight in model.parameters():
            weight.grad = drawn(*weight.shape)
        if overflow:
            model.head.weight.grad[0] = torch.inf  # type: ignore[index]
        optimiser.set_learning_rate(0.01)
        scaler.step(optimiser)
        scaler.update()
        same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert all(same) if overflow else not any(same)
    assert scaler.get_scale() == 4.0


def test_rate_rises_then_falls_to_zero() -> None:
    schedule = replace(CONFIG.training, warmup_fraction=0.2, learning_rate=1.0)
    rates = [learning_rate(step, 100, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[19] == 1
    assert all(a > b for a, b in pairwise(rates[20:]))
    assert rates[-1] < 0.001
