"""The averaged weights: a copy first, then an average that forgets its start."""

from __future__ import annotations

import pytest
import torch

from flowseg.training.averaging import average_weights
from helpers.training import network


def test_the_decay_rises_to_the_one_asked_for() -> None:
    model = network()
    average = average_weights(model, decay=0.25)
    average.update_parameters(model)
    assert all(map(torch.equal, model.parameters(), average.module.parameters()))
    expected = model.head.bias.detach().clone()
    for decay in (1 / 10, 2 / 11, 3 / 12, 0.25, 0.25):
        with torch.no_grad():
            model.head.bias += 1
        model.norm.num_batches_tracked += 3
        average.update_parameters(model)
        expected = decay * expected + (1 - decay) * model.head.bias.detach()
        assert average.module.head.bias.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        assert average.module.norm.num_batches_tracked == model.norm.num_batches_tracked
