"""Ensembles of networks with test-time augmentation: the mean of all their predictions."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowseg.config.choices import TTA_CHOICES
from flowseg.config.schema import Precision
from flowseg.errors import FlowsegError
from flowseg.inference.flow_field import DeviceField, to_host
from flowseg.network.architecture import Architecture, NetworkOutput
from flowseg.network.cellpose import CellposeNetwork, unit_style
from flowseg.network.device import (
    autocast,
    compute_exactly,
    memory_format,
    pick_device,
    pick_precision,
)

# Quarter turns counter-clockwise, and whether the image is then mirrored left to right.
_AUGMENTATIONS = {
    1: ((0, False),),
    2: ((0, False), (2, False)),
    4: tuple((turns, False) for turns in range(4)),
    8: tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4)),
}


_of_thread = threading.local()


@contextmanager
def own_stream(device: torch.device) -> Iterator[torch.cuda.Stream | None]:
    """On a GPU a stream of this thread's own, so that it does not wait for other threads' work."""
    if device.type != "cuda":
        yield None
        return
    streams: dict[str, torch.cuda.Stream] = vars(_of_thread)
    if str(device) not in streams:
        streams[str(device)] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream = streams[str(device)]
    with torch.cuda.stream(stream):
        yield stream


class Ensemble:
    """One or several networks on a device, and the test-time augmentations they see.

    The networks are copied. A pickle or a deep copy carries the weights; it picks its device and
    compiles anew. Parameters are those of :class:`flowseg.Segmenter`, and `tile`, the edge of the
    square that is computed at once, without its halo, which bounds the memory.

    Of the augmentations 2 add the half turn, 4 the quarter turns, 8 their mirror images. The output
    for an image transformed by any of them is the output transformed.

    Images are to be rescaled so that the mean cell diameter becomes `diameter` pixels, and both
    edges must be multiples of `stride`; `halo` is the radius of the receptive field, rounded up to
    such a multiple, in pixels.
    """

    def __init__(
        self,
        networks: Sequence[Architecture],
        device: str = "auto",
        precision: Precision = "auto",
        *,
        tta: int = 1,
        compile: bool = False,
        tile: int = 1024,
    ) -> None:
        if tta not in _AUGMENTATIONS:
            raise FlowsegError(f"tta must be one of {TTA_CHOICES}, not {tta}")
        if len({network.config.target_diameter for network in networks}) != 1:
            raise FlowsegError("networks of different diameters make no ensemble")
        if len({(n.config.kind, n.config.input_channels) for n in networks}) != 1:
            raise FlowsegError("networks of different kinds or channels make no ensemble")
        self.options: dict[str, Any] = {"device": device, "precision": precision}
        self.options |= {"tta": tta, "compile": compile, "tile": tile}
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        compute_exactly(self.device)
        self.augmentations = _AUGMENTATIONS[tta]
        self.networks = [
            network.folded().to(self.device).to(memory_format=memory_format(self.device))  # type: ignore[call-overload]
            for network in networks
        ]
        self.diameter = networks[0].config.target_diameter
        self.stride = max(network.stride for network in networks)
        radius = max(network.receptive_field_radius for network in networks)
        self.halo = -(-radius // self.stride) * self.stride
        self.tile = tile
        # Dynamic: one graph for images of any size, a second one for batches.
        self._run = [torch.compile(n, dynamic=True) if compile else n for n in self.networks]
        # On a CPU one batch takes all cores. On a GPU threads have streams of their own, but memory
        # for few batches.
        self._free = threading.Semaphore(2 if self.device.type == "cuda" else 1)

    def __getstate__(self) -> dict[str, Any]:
        networks = [deepcopy(network).cpu() for network in self.networks]
        return {"networks": networks, **self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def styles(
        self, parts: Iterable[tuple[NDArray[np.float32], tuple[slice, slice]]]
    ) -> list[Tensor] | None:
        """What the parts of one image have to share, for `predict`; None if they need nothing.

        Parts are (h, w), or (2, h, w) with nuclei, and the rows and columns of each that are no
        part of another.
        """
        if not any(isinstance(network, CellposeNetwork) for network in self.networks):
            return None
        sums: list[Tensor] = []
        for part, keep in parts:
            rows, columns = (slice(s.start // self.stride, s.stop // self.stride) for s in keep)
            batch = _batch(part[None]).to(self.device)
            with self._free, torch.inference_mode(), autocast(self.device, self.dtype):
                found = [
                    _turn_back(network.features(_augment(batch, *augmentation)), *augmentation)
                    for network in self.networks
                    for augmentation in self.augmentations
                ]
            kept = [maps[..., rows, columns].float().sum(dim=(-2, -1)) for maps in found]
            sums = kept if not sums else [a + b for a, b in zip(sums, kept, strict=True)]
        return [unit_style(total) for total in sums]

    def predict(
        self,
        images: NDArray[np.float32],
        disagreement: bool = False,
        styles: Sequence[Tensor] | None = None,
    ) -> list[DeviceField]:
        """The mean output for each of some images, normalised and rescaled.

        They are (B, h, w), or (B, 2, h, w) with nuclei, for networks that know them. Both edges are
        multiples of `stride`; `disagreement` asks for that map as well. `styles` are those of the
        image whose parts these are.
        """
        pin_memory = self.device.type == "cuda"
        batch = _batch(images)
        if pin_memory:
            batch = batch.pin_memory()
        with self._free, torch.inference_mode(), autocast(self.device, self.dtype):
            batch = batch.to(self.device, non_blocking=pin_memory)
            count, _, height, width = batch.shape
            mean = batch.new_zeros((count, 3, height, width))
            logits = batch.new_zeros((count, self.networks[0].cell_types))
            squares = batch.new_zeros((count, height, width))
            shared = iter(styles or ())
            for network, run in zip(self.networks, self._run, strict=True):
                for augmentation in self.augmentations:
                    style = (
                        {}
                        if styles is None
                        else {"style": next(shared).to(self.device).expand(count, -1)}
                    )
                    augmented = _augment(batch, *augmentation)
                    # Copied, so that all views have the same strides, and share a compiled graph.
                    output = run(augmented.clone(memory_format=torch.contiguous_format), **style)
                    maps = _invert(_maps(output, network.config.flow_scale), *augmentation)
                    mean += maps
                    logits += output.cell_type
                    if disagreement:
                        squares += maps[:, :2].square().sum(dim=1)
            members = len(self.networks) * len(self.augmentations)
            mean /= members
            variance = squares / members - mean[:, :2].square().sum(dim=1)
            distances = variance.clamp_(min=0).sqrt_() if disagreement else [None] * count
            return list(map(DeviceField, mean, to_host(logits / members), distances))


def _batch(images: NDArray[np.float32]) -> Tensor:
    """Images as networks take them: (B, C, h, w)."""
    batch = torch.from_numpy(np.ascontiguousarray(images))
    return batch if batch.ndim == 4 else batch[:, None]


def _maps(output: NetworkOutput, flow_scale: float) -> Tensor:
    return torch.cat((output.flows.float() / flow_scale, output.cellprob.float()[:, None]), 1)


def _augment(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Rotated counter-clockwise by quarter turns, then mirrored left to right."""
    if turns:
        images = torch.rot90(images, turns, (-2, -1))
    return images.flip(-1) if mirrored else images


def _turn_back(maps: Tensor, turns: int, mirrored: bool) -> Tensor:
    """The maps of an augmented image, of no direction, as maps of the image itself."""
    return torch.rot90(maps.flip(-1) if mirrored else maps, -turns, (-2, -1))


def _invert(maps: Tensor, turns: int, mirrored: bool) -> Tensor:
    """The maps of an augmented image as maps of the image itself; flow vectors rotate along."""
    if mirrored:
        maps = maps.flip(-1)
        maps[:, 1].neg_()
    for _ in range(turns):
        # A vector along the rows pointed down before a quarter turn counter-clockwise.
        maps = torch.rot90(maps, -1, (-2, -1))
        maps = torch.stack((maps[:, 1], -maps[:, 0], maps[:, 2]), 1)
    return maps
