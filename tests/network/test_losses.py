"""The loss on literal values."""

from __future__ import annotations

import math

import pytest
import torch

from flowseg.network.losses import _weights, flow_loss
from flowseg.network.unet import NetworkOutput


def output(flows: float, cellprob: float, types: list[list[float]]) -> NetworkOutput:
    count = len(types)
    return NetworkOutput(
        torch.full((count, 2, 4, 4), flows),
        torch.full((count, 4, 4), cellprob),
        torch.tensor(types),
    )


def test_literal_value() -> None:
    losses = flow_loss(
        output(1.0, 0.0, [[0.0, 0.0]]),
        torch.full((1, 2, 4, 4), 0.6),
        torch.ones(1, 4, 4),
        torch.tensor([1]),
        flow_scale=5.0,
    )
    assert losses.flows.item() == pytest.approx((1 - 3) ** 2 / 2)
    dice = 1 - (2 * 8 + 100) / (8 + 16 + 100)
    assert losses.cellprob.item() == pytest.approx(math.log(2) + dice)
    assert losses.cell_type.item() == pytest.approx(math.log(2))
    assert losses.total.item() == pytest.approx(2 + math.log(2) + dice + 0.1 * math.log(2))


def test_pixels_near_outlines_and_between_touching_cells_weigh_twice() -> None:
    inside = torch.zeros(1, 12, 20)
    inside[:, :, 5:] = 1
    flows = torch.zeros(1, 2, 12, 20)
    flows[:, 1, :, 5:13] = -1
    flows[:, 1, :, 13:] = 1
    twice = [3, 4, 5, 6, 10, 11, 12, 13, 14, 15]
    expected = torch.ones(1, 12, 20)
    expected[:, :, twice] = 2
    assert torch.equal(_weights(flows, inside), expected)
    assert torch.equal(_weights(-flows, inside), expected)  # a sink turns as a border does
    assert torch.equal(_weights(flows.mT.flip(1), inside.mT), expected.mT)


def test_a_perfect_answer_costs_nothing() -> None:
    inside = torch.zeros(1, 8, 8)
    inside[:, 2:6, 2:6] = 1
    flows = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * inside
    perfect = NetworkOutput(5 * flows, 200 * (inside - 0.5), torch.tensor([[0.0, 50.0]]))
    assert flow_loss(perfect, flows, inside, torch.tensor([1]), 5.0).total.item() < 1e-6


def test_images_of_unknown_type_teach_no_type() -> None:
    types = [[3.0, 0.0], [0.0, 3.0]]
    flows, inside = torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4)
    one = flow_loss(output(0, 0, types), flows, inside, torch.tensor([1, -1]), 5.0)
    assert one.cell_type.item() == pytest.approx(math.log(1 + math.exp(3)))
    none = flow_loss(output(0, 0, types), flows, inside, torch.tensor([-1, -1]), 5.0)
    assert none.cell_type.item() == 0
    assert math.isfinite(none.total.item())


def test_pixels_that_are_not_known_count_in_no_term() -> None:
    generator = torch.Generator().manual_seed(2)
    inside = torch.zeros(1, 12, 12)
    inside[:, 2:6, 2:6] = 1
    flows = torch.nn.functional.normalize(torch.randn(1, 2, 12, 12, generator=generator), dim=1)
    flows = flows * inside
    flow, prob = torch.randn(1, 2, 12, 12, generator=generator), torch.zeros(1, 12, 12)
    types = torch.tensor([[0.0, 1.0]])
    inside[:, 8:] = -1
    losses = []
    for value in (-9.0, 0.0, 9.0):
        flow[..., 9:, :], prob[..., 9:, :] = value, value
        found = NetworkOutput(flow.clone(), prob.clone(), types)
        losses.append(flow_loss(found, flows, inside, torch.tensor([1]), 5.0))
    assert losses[0] == losses[1] == losses[2]
    background = flow_loss(found, flows, inside.clamp(min=0), torch.tensor([1]), 5.0)
    assert background.total > losses[0].total + 1
