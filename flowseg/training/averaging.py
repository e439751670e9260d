"""The exponential moving average (EMA) of the weights, which is validated and saved."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from flowseg.network.architecture import Architecture

Tensors = tuple[Tensor, ...] | list[Tensor]


def average_weights(network: Architecture, decay: float) -> AveragedModel:
    """A copy of a network whose `update_parameters` moves it towards that network.

    The first update copies; the k-th after it has the decay min(`decay`, k / (k + 9)), so that a
    young average forgets the initial weights. Batch statistics are averaged as well.
    """

    def update(averages: Tensors, weights: Tensors, _: Tensor | int) -> None:
        count = int(average.n_averaged)  # on the host, unlike the argument
        if averages[0].is_floating_point():  # of all or none: they come by dtype
            torch._foreach_lerp_(averages, weights, 1 - min(decay, count / (count + 9)))
        else:
            torch._foreach_copy_(averages, weights)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    return average
