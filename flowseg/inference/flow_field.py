"""A flow field: where the networks left it, on the host, and followed to instances."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.flow.representation import find_instances
from flowseg.inference.rescale import rescale_maps
from flowseg.io.atomic import atomic_path
from flowseg.io.paths import PathLike

__all__ = ["DeviceField", "FlowField", "field_to_labels", "load_fields", "save_fields", "to_host"]


class FlowField(NamedTuple):
    """What the committee says of one image of H x W pixels.

    Attributes
    ----------
    flows : ndarray, shape (2, H, W), float32
        Order (dy, dx), of about unit length inside cells.
    cellprob : ndarray, shape (H, W), float32
        Logit of the probability that a pixel lies in a cell.
    cell_type : ndarray, shape (T,), float32
        Logits of the cell types.
    disagreement : ndarray, shape (H, W), float32, or None
        As in :class:`flowseg.inference.ensemble.EnsembleOutput`.
    """

    flows: NDArray[np.float32]
    cellprob: NDArray[np.float32]
    cell_type: NDArray[np.float32]
    disagreement: NDArray[np.float32] | None = None


class DeviceField(NamedTuple):
    """The same on the committee's device.

    Attributes
    ----------
    maps : tensor, shape (3, H, W), float32
        Flows (dy, dx) and cellprob.
    cell_type : ndarray, shape (T,), float32
        On the host.
    disagreement : tensor, shape (H, W), float32, or None
    """

    maps: Tensor
    cell_type: NDArray[np.float32]
    disagreement: Tensor | None = None

    def resized(self, shape: tuple[int, int]) -> DeviceField:
        """At another size, where it lies."""
        apart = self.disagreement
        return DeviceField(
            rescale_maps(self.maps, shape),
            self.cell_type,
            None if apart is None else rescale_maps(apart[None], shape)[0],
        )

    def to_host(self) -> FlowField:
        """On the host."""
        maps, apart = to_host(self.maps), self.disagreement
        return FlowField(
            maps[:2], maps[2], self.cell_type, None if apart is None else to_host(apart)
        )


def to_host(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor on the host; one that is there already is not copied."""
    if tensor.device.type != "cuda":
        return np.asarray(tensor.cpu().numpy())
    # Page-locked memory is filled without a detour; torch keeps and reuses it.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return np.asarray(host.numpy())


def field_to_labels(
    field: FlowField,
    settings: CellTypeSettings,
    device: torch.device,
    on_device: Tensor | None = None,
) -> NDArray[np.int32]:
    """The instances of a flow field.

    Parameters
    ----------
    field : FlowField
    needs : CellType
        The thresholds.
    device : torch.device
        A CUDA device follows the flows itself; for any other the CPU does.
    resident : tensor, shape (3, H, W), optional
        The field's maps, where they lie on the CUDA device already.
    """
    on_gpu = device.type == "cuda"
    cells = find_instances(
        field.flows,
        field.cellprob,
        cellprob_threshold=settings.cellprob_threshold,
        measure=settings.flow_threshold > 0,
        device=str(device) if on_gpu else "cpu",
        on_device=on_device if on_gpu else None,
    )
    return cells.labels(cells.kept(settings.flow_threshold, settings.min_size))


def save_fields(path: PathLike, flows: ArrayLike, cellprob: ArrayLike) -> None:
    """Write a flow field as float16 to an .npz file, atomically: 6 bytes a pixel."""
    half = [np.asarray(values, dtype=np.float16) for values in (flows, cellprob)]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, flows=half[0], cellprob=half[1])


def load_fields(path: PathLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flows (2, H, W) and cellprob (H, W) from what `save_fields` wrote.

    Raises
    ------
    FlowsegError
        If the file is missing, damaged, or holds something else.
    """
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return file["flows"].astype(np.float32), file["cellprob"].astype(np.float32)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        BadZipFile,
        AttributeError,
    ) as error:
        raise FlowsegError(
            "holds no flow field that can be read", file=path, remedy="predict it again"
        ) from error
