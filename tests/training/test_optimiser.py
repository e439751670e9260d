"""Muon: directions evened out, sizes as promised, every weight moved by one optimiser."""

from __future__ import annotations

import pytest
import torch
from test_loop import network

from flowseg.training.optimiser import Muon, _orthogonal, optimisers, set_state, state_of

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
    found = _orthogonal(matrix.to(dtype)).float()
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
    assert rest.abs().max() < 0.1


def test_every_weight_has_one_optimiser() -> None:
    model = network()
    both = optimisers(model, 0.01, torch.float32)
    owned = [p for one in both.values() for group in one.param_groups for p in group["params"]]
    assert len(owned) == len(set(owned)) == len(list(model.parameters()))
    kernels = both["muon"].param_groups[0]["params"]
    assert all(kernel.ndim == 4 for kernel in kernels)
    assert not {model.stem.weight, model.head.weight} & set(kernels)


def test_state_goes_there_and_back() -> None:
    models = [network(), network()]
    both = [optimisers(model, 0.01, torch.float32) for model in models]
    for k in range(3):
        for model, own in zip(models, both, strict=True):
            for number, weight in enumerate(model.parameters()):
                weight.grad = drawn(*weight.shape) * (number + k)
            for one in own.values():
                one.param_groups[0]["lr"] = 0.01
                one.step()
        kept = {key: value.clone() for key, value in state_of(both[0]).items()}
        both[1] = optimisers(models[1], 0.01, torch.float32)
        set_state(both[1], kept | {"network.stem.weight": torch.zeros(1)})
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
