"""What training minimises."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from flowseg.network.unet import NetworkOutput

__all__ = ["Losses", "flow_loss"]


class Losses(NamedTuple):
    """The parts of the loss, each a scalar tensor; `total` is what is minimised."""

    total: Tensor
    flows: Tensor
    cellprob: Tensor
    cell_type: Tensor


def flow_loss(
    output: NetworkOutput, flows: Tensor, inside: Tensor, cell_type: Tensor, flow_scale: float
) -> Losses:
    """Half the squared flow error, plus two cross entropies.

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
    Flow and cellprob terms follow Stringer et al., "Cellpose: a generalist algorithm for
    cellular segmentation", Nature Methods 2021. The cell type's term has a tenth of the weight:
    it steers no pixel.
    """
    flow_error = functional.mse_loss(output.flows.float(), flow_scale * flows) / 2
    cellprob_error = functional.binary_cross_entropy_with_logits(output.cellprob.float(), inside)
    known = cell_type >= 0
    logits = output.cell_type.float()
    # The sum over no image is zero and keeps the graph whole.
    type_error = functional.cross_entropy(logits[known], cell_type[known], reduction="sum")
    type_error = type_error / known.sum().clamp(min=1)
    return Losses(
        flow_error + cellprob_error + 0.1 * type_error, flow_error, cellprob_error, type_error
    )
