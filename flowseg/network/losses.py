"""What training minimises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from flowseg.network.unet import NetworkOutput

__all__ = ["Losses", "flow_loss"]

_APART = -0.2
"""Cosine below which the flows of two neighbours point apart."""

_DICE_PIXELS = 100.0
"""So many pixels are taken as found in every crop: an empty one has a loss as well."""


class Losses(NamedTuple):
    """The parts of the loss, each a scalar tensor; `total` is what is minimised."""

    total: Tensor
    flows: Tensor
    cellprob: Tensor
    cell_type: Tensor


def flow_loss(
    output: NetworkOutput, flows: Tensor, inside: Tensor, cell_type: Tensor, flow_scale: float
) -> Losses:
    """The squared flow error, cross entropy and Dice loss of cellprob, and the cell type's.

    Parameters
    ----------
    output : NetworkOutput
        Of the network, for B images.
    flows : Tensor, shape (B, 2, H, W), float32
        Unit vectors inside cells, zero outside.
    inside : Tensor, shape (B, H, W), float32
        1 inside cells, 0 outside.
    cell_type : Tensor, shape (B,), int64
        Index of each image's cell type; -1 where there is none to learn.
    flow_scale : float
        The network regresses this many times the flows.

    Returns
    -------
    Losses

    Notes
    -----
    Squared error and cross entropy follow Stringer et al., "Cellpose: a generalist algorithm for
    cellular segmentation", Nature Methods 2021. Two things are ours: pixels near outlines and
    sinks weigh twice (see `_weights`), and cellprob also has a Dice term, Milletari et al.,
    "V-Net", 2016, whose optimum is the mask that overlaps best rather than the likeliest pixels.
    The cell type's term has a tenth of the weight: it steers no pixel.
    """
    weights = _weights(flows, inside)
    flow_error = (output.flows.float() - flow_scale * flows).square().sum(dim=1)
    logit = output.cellprob.float()
    cross_entropy = functional.binary_cross_entropy_with_logits(logit, inside, reduction="none")
    flow_term = (weights * flow_error).mean() / 4
    cellprob_term = (weights * cross_entropy).mean() + _dice_loss(torch.sigmoid(logit), inside)
    known = cell_type >= 0
    logits = output.cell_type.float()
    # The sum over no image is zero and keeps the graph whole.
    type_term = functional.cross_entropy(logits[known], cell_type[known], reduction="sum")
    type_term = type_term / known.sum().clamp(min=1)
    total = flow_term + cellprob_term + 0.1 * type_term
    return Losses(total, flow_term, cellprob_term, type_term)


def _weights(flows: Tensor, inside: Tensor) -> Tensor:
    """2 near outlines, touching cells and sinks, where few pixels decide what is one cell; else 1.

    Cells touch, or end in a sink, where the flows of neighbouring pixels point apart.
    """
    covered = inside[:, None]
    most, least = _highest_near(covered), -_highest_near(-covered)
    turns = torch.zeros_like(covered)
    for axis in (2, 3):
        size = flows.shape[axis] - 1
        first, second = flows.narrow(axis, 0, size), flows.narrow(axis, 1, size)
        apart = ((first * second).sum(dim=1, keepdim=True) < _APART).float()
        turns.narrow(axis, 0, size).add_(apart)
        turns.narrow(axis, 1, size).add_(apart)
    near = torch.maximum(most - least, (_highest_near(turns) > 0).float())
    return 1 + near[:, 0]


def _highest_near(maps: Tensor) -> Tensor:
    """The maximum of each 5 x 5 neighbourhood."""
    return functional.max_pool2d(maps, 5, stride=1, padding=2)


def _dice_loss(probability: Tensor, inside: Tensor) -> Tensor:
    both = (probability * inside).sum(dim=(1, 2))
    either = (probability + inside).sum(dim=(1, 2))
    return (1 - (2 * both + _DICE_PIXELS) / (either + _DICE_PIXELS)).mean()
