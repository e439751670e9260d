"""What all networks have in common: their output, and what tiles and the optimiser ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import NamedTuple

from torch import Tensor, nn
from typing_extensions import Self

from flowseg.config.schema import NetworkConfig
from flowseg.errors import FlowsegError


class NetworkOutput(NamedTuple):
    """Network outputs for a batch of B images of H x W pixels."""

    flows: Tensor
    """(B, 2, H, W): ``flow_scale`` times the flows, order (dy, dx)."""
    cellprob: Tensor
    """(B, H, W): logit of the probability that a pixel lies in a cell."""
    cell_type: Tensor
    """(B, T): logits of the cell types, in the order of the checkpoint's card."""


class Architecture(nn.Module, ABC):
    """A network: images (B, C, H, W) to the maps of `NetworkOutput`, for `cell_types` types."""

    def __init__(self, config: NetworkConfig, cell_types: int) -> None:
        super().__init__()
        self.config = config
        self.cell_types = cell_types

    @property
    def stride(self) -> int:
        """Both edges of an input must be multiples of this many pixels."""
        return self.config.stem_stride << (len(self.config.channels) - 1)

    @property
    @abstractmethod
    def receptive_field_radius(self) -> int:
        """Receptive-field radius, in pixels, rounded up to a multiple of `stride`."""

    @property
    @abstractmethod
    def ends(self) -> set[Tensor]:
        """The weights of the first and the last layers, which are no matrices between features."""

    @abstractmethod
    def fold(self) -> None:
        """Fold the batch norms into the convolutions beside them, where that changes nothing."""

    def folded(self) -> Self:
        """A copy for inference, see `fold`."""
        copy = deepcopy(self).eval()
        copy.fold()
        return copy

    def check_edges(self, height: int, width: int) -> None:
        """Refuse an input whose edges are no multiples of `stride`."""
        if height % self.stride or width % self.stride:
            padded = tuple(-(-edge // self.stride) * self.stride for edge in (height, width))
            raise FlowsegError(
                f"the network cannot take an image of {height} x {width} pixels",
                remedy=f"both edges must be multiples of {self.stride}: pad it to "
                f"{padded[0]} x {padded[1]}",
            )
