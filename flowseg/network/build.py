"""A network of the architecture that a card or the settings name."""

from __future__ import annotations

from flowseg.config.schema import NetworkConfig
from flowseg.network.architecture import Architecture
from flowseg.network.cellpose import CellposeNetwork
from flowseg.network.unet import FlowNetwork


def build_network(config: NetworkConfig, cell_types: int, seed: int = 0) -> Architecture:
    """A network with random weights, the same for the same seed."""
    kinds = {"unet": FlowNetwork, "cellpose": CellposeNetwork}
    return kinds[config.kind](config, cell_types, seed)
