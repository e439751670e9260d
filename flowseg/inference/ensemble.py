"""Networks and views that answer together: each network sees each view; the mean is the answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowseg.config.choices import TTA_CHOICES
from flowseg.errors import FlowsegError
from flowseg.inference.flow_field import to_host
from flowseg.network.device import autocast
from flowseg.network.unet import FlowNetwork, NetworkOutput, folded

__all__ = ["Ensemble", "EnsembleOutput"]

_TTA = {
    1: ((0, False),),
    2: ((0, False), (2, False)),
    4: tuple((turns, False) for turns in range(4)),
    8: tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}


class EnsembleOutput(NamedTuple):
    """What the committee says of a batch of B images of h x w pixels.

    Attributes
    ----------
    maps : tensor, shape (B, 3, h, w), float32
        Flows (dy, dx) of about unit length inside cells, and cellprob (a logit). On the
        committee's device.
    cell_type : ndarray, shape (B, T), float32
        Logits of the cell types. On the host.
    disagreement : tensor, shape (B, h, w), float32, or None
        Root mean square distance of the members' flows from their mean; 0 where all agree.
    """

    maps: Tensor
    cell_type: NDArray[np.float32]
    disagreement: Tensor | None


class Ensemble:
    """One or several networks, and the views they see.

    Parameters
    ----------
    networks : sequence of FlowNetwork
        Of one number of cell types and one diameter; they are copied.
    device : torch.device
    dtype : torch.dtype
        Number type of the convolutions.
    views : {1, 2, 4, 8}
        Views averaged: 2 adds the half turn, 4 the quarter turns, 8 their mirror images. The
        answer for an image turned by any of them is the answer turned.
    compile : bool
        Whether torch.compile translates the networks first; needs a C++ compiler and takes most of
        a minute for each new size of images.

    Attributes
    ----------
    diameter : float
        Images are to be rescaled so that the mean cell diameter becomes this many pixels.
    stride : int
        Both edges of an image must be multiples of it.
    reach : int
        Pixels beyond this distance have no say in an answer.
    tile : int
        Edge of the square that is computed at once, without its reach; bounds the memory.
    """

    def __init__(
        self,
        networks: Sequence[FlowNetwork],
        device: torch.device,
        dtype: torch.dtype,
        tta: int = 1,
        compile: bool = False,
    ) -> None:
        if tta not in _TTA:
            raise FlowsegError(f"tta must be one of {TTA_CHOICES}, not {tta}")
        if len({network.config.target_diameter for network in networks}) != 1:
            raise FlowsegError("networks of different diameters cannot answer together")
        self.device = device
        self.dtype = dtype
        self.tta = _TTA[tta]
        self.networks = [
            folded(network).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for network in networks
        ]
        self.diameter = networks[0].config.target_diameter
        self.stride = max(network.stride for network in networks)
        self.reach = -(-max(network.reach for network in networks) // self.stride) * self.stride
        self.tile = 1024
        self._run = [torch.compile(n) if compile else n for n in self.networks]
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """How many answers are averaged."""
        return len(self.networks) * len(self.tta)

    def predict(self, images: NDArray[np.float32], disagreement: bool = False) -> EnsembleOutput:
        """The mean answer for images, normalised and rescaled.

        Parameters
        ----------
        images : ndarray, shape (B, h, w), float32
            Both edges multiples of `stride`.
        disagreement : bool
            Whether to say how far the members are apart.
        """
        pinned = self.device.type == "cuda"
        batch = torch.from_numpy(np.ascontiguousarray(images))[:, None]
        if pinned:
            batch = batch.pin_memory()
        # One at a time: threads of one device only hinder each other.
        with self._lock, torch.inference_mode(), autocast(self.device, self.dtype):
            batch = batch.to(self.device, non_blocking=pinned)
            count, _, height, width = batch.shape
            total = batch.new_zeros((count, 3, height, width))
            votes = batch.new_zeros((count, self.networks[0].type_head.out_features))
            square = batch.new_zeros((count, height, width))
            for network, run in zip(self.networks, self._run, strict=True):
                for view in self.tta:
                    output = run(
                        _turned(batch, *view).contiguous(memory_format=torch.channels_last)
                    )
                    maps = _unturned(_maps(output, network.config.flow_scale), *view)
                    total += maps
                    votes += output.cell_type
                    if disagreement:
                        square += maps[:, :2].square().sum(dim=1)
            total /= self.size
            apart = (square / self.size - total[:, :2].square().sum(dim=1)).clamp_(min=0).sqrt_()
            return EnsembleOutput(
                total, to_host(votes / self.size), apart if disagreement else None
            )


def _maps(output: NetworkOutput, flow_scale: float) -> Tensor:
    return torch.cat((output.flows.float() / flow_scale, output.cellprob.float()[:, None]), 1)


def _turned(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Turned counter-clockwise by quarters, then mirrored left to right."""
    if turns:
        images = torch.rot90(images, turns, (-2, -1))
    return images.flip(-1) if mirrored else images


def _unturned(maps: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Maps of a view, turned back to the image's own position; the flow vectors turn along."""
    if mirrored:
        maps = maps.flip(-1)
        maps[:, 1].neg_()
    for _ in range(turns):
        # What points along the rows of a view pointed down before a turn counter-clockwise.
        maps = torch.rot90(maps, -1, (-2, -1))
        maps = torch.stack((maps[:, 1], -maps[:, 0], maps[:, 2]), 1)
    return maps
