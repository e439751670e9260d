"""Loss: flow MSE, cellprob BCE + Dice, cell-type cross-entropy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from flowseg.network.architecture import NetworkOutput

_DIVERGENT = -0.2
"""Cosine below which the flows of two neighbouring pixels diverge."""

_DICE_SMOOTHING = 100.0
"""Pixels added to both sides of the Dice ratio, so that an empty crop has a loss as well."""


class Losses(NamedTuple):
    """The parts of the loss, each a scalar tensor; `total` is what is minimised."""

    total: Tensor
    flows: Tensor
    cellprob: Tensor
    cell_type: Tensor


def flow_loss(
    output: NetworkOutput, flows: Tensor, inside: Tensor, cell_type: Tensor, flow_scale: float
) -> Losses:
    """Flow error, binary cross entropy and Dice loss of cellprob, cell-type cross entropy.

    Targets are those of :class:`flowseg.training.batches.Batch`, a cell type of -1 if unknown;
    pixels of which it is not known whether they are `inside` (-1) count in no term. The network
    regresses `flow_scale` times the flows.

    Notes
    -----
    Squared error and cross entropy follow Stringer et al., "Cellpose: a generalist algorithm for
    cellular segmentation", Nature Methods 2021. Two things are ours: pixels near outlines and
    sinks weigh twice (see `_weights`), and cellprob also has a Dice term (Milletari et al.,
    "V-Net", 2016), whose optimum is the mask of highest overlap rather than the likeliest pixels.
    The cell-type term has a tenth of the weight: it decides no pixel.
    """
    known = (inside >= 0).float()
    inside = inside.clamp(min=0)
    weights = _weights(flows, inside) * known
    flow_error = (output.flows.float() - flow_scale * flows).square().sum(dim=1)
    logit = output.cellprob.float()
    cross_entropy = functional.binary_cross_entropy_with_logits(logit, inside, reduction="none")
    flow_term = (weights * flow_error).mean() / 4
    cellprob_term = (weights * cross_entropy).mean() + _dice_loss(
        torch.sigmoid(logit) * known, inside
    )
    type_term = functional.cross_entropy(
        output.cell_type.float(), cell_type, ignore_index=-1, reduction="sum"
    )
    type_term = type_term / (cell_type >= 0).sum().clamp(min=1)
    total = flow_term + cellprob_term + 0.1 * type_term
    return Losses(total, flow_term, cellprob_term, type_term)


def _weights(flows: Tensor, inside: Tensor) -> Tensor:
    """Pixel weights: 2 near outlines, touching cells and sinks, which few pixels decide; else 1.

    Cells touch, or flow into a sink, where the flows of neighbouring pixels diverge.
    """
    covered = inside[:, None]
    highest, lowest = _dilate(covered), -_dilate(-covered)
    divergent = torch.zeros_like(covered)
    for axis in (2, 3):
        size = flows.shape[axis] - 1
        first, second = flows.narrow(axis, 0, size), flows.narrow(axis, 1, size)
        pair = ((first * second).sum(dim=1, keepdim=True) < _DIVERGENT).float()
        divergent.narrow(axis, 0, size).add_(pair)
        divergent.narrow(axis, 1, size).add_(pair)
    decisive = torch.maximum(highest - lowest, (_dilate(divergent) > 0).float())
    return 1 + decisive[:, 0]


def _dilate(maps: Tensor) -> Tensor:
    """The maximum of each 5 x 5 neighbourhood."""
    return functional.max_pool2d(maps, 5, stride=1, padding=2)


def _dice_loss(probability: Tensor, inside: Tensor) -> Tensor:
    overlap = (probability * inside).sum(dim=(1, 2))
    total = (probability + inside).sum(dim=(1, 2))
    return (1 - (2 * overlap + _DICE_SMOOTHING) / (total + _DICE_SMOOTHING)).mean()
