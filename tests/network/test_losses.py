"""The loss on literal values."""

from __future__ import annotations

import math

import pytest
import torch

from flowseg.network.losses import flow_loss
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
    assert losses.cellprob.item() == pytest.approx(math.log(2))
    assert losses.cell_type.item() == pytest.approx(math.log(2))
    assert losses.total.item() == pytest.approx(2 + math.log(2) + 0.1 * math.log(2))


def test_images_of_unknown_type_teach_no_type() -> None:
    types = [[3.0, 0.0], [0.0, 3.0]]
    flows, inside = torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4)
    one = flow_loss(output(0, 0, types), flows, inside, torch.tensor([1, -1]), 5.0)
    assert one.cell_type.item() == pytest.approx(math.log(1 + math.exp(3)))
    none = flow_loss(output(0, 0, types), flows, inside, torch.tensor([-1, -1]), 5.0)
    assert none.cell_type.item() == 0
    assert math.isfinite(none.total.item())
