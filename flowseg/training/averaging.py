"""The exponential moving average (EMA) of the weights, which is validated and saved."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from flowseg.network.unet import FlowNetwork

__all__ = ["average_weights"]


def average_weights(network: FlowNetwork, decay: float) -> AveragedModel:
    """A copy of a network whose `update_parameters` moves it towards that network.

    The first update copies; the k-th after it has the decay min(`decay`, k / (k + 9)), so that a
    young average forgets the initial weights. Batch statistics are averaged as well.

    Parameters
    ----------
    network : FlowNetwork
        On the device where it is trained.
    decay : float
        From 0 to below 1.
    """

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], _: Tensor | int) -> None:
        count = int(average.n_averaged)  # the argument lies on the device: this waits for no GPU
        for mean, weight in zip(averages, weights, strict=True):
            if mean.is_floating_point():
                mean.lerp_(weight, 1 - min(decay, count / (count + 9)))
            else:
                mean.copy_(weight)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    return average
