"""A flow field: on the device of the networks, on the host, in a file; its labels."""

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


class FlowField(NamedTuple):
    """The flow field of an image on the host: maps as in :class:`DeviceField`, float32."""

    flows: NDArray[np.float32]
    cellprob: NDArray[np.float32]
    disagreement: NDArray[np.float32] | None = None


class DeviceField(NamedTuple):
    """The output of an ensemble for one image of H x W pixels, on the ensemble's device."""

    maps: Tensor
    """(3, H, W) float32: flows (dy, dx), of about unit length inside cells, and cellprob logits."""
    cell_type: NDArray[np.float32]
    """(T,) float32: logits of the cell types; on the host."""
    disagreement: Tensor | None = None
    """(H, W) float32: root mean square distance of the members' flows from their mean."""

    def cropped(self, rows: slice, columns: slice) -> DeviceField:
        """The maps of a region."""
        return DeviceField(
            self.maps[:, rows, columns],
            self.cell_type,
            None if self.disagreement is None else self.disagreement[rows, columns],
        )

    def resized(self, shape: tuple[int, int]) -> DeviceField:
        """Rescaled on its device."""
        disagreement = self.disagreement
        return DeviceField(
            rescale_maps(self.maps, shape),
            self.cell_type,
            None if disagreement is None else rescale_maps(disagreement[None], shape)[0],
        )

    def to_host(self) -> FlowField:
        """Copied to the host."""
        maps, disagreement = to_host(self.maps), self.disagreement
        return FlowField(maps[:2], maps[2], None if disagreement is None else to_host(disagreement))


def to_host(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as an array; one that is on the host already is not copied."""
    if tensor.device.type != "cuda":
        return np.asarray(tensor.cpu().numpy())
    # The copy to pinned memory is the fastest; torch keeps and reuses that memory.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return np.asarray(host.numpy())


def compute_labels(
    field: DeviceField, shape: tuple[int, ...], settings: CellTypeSettings
) -> tuple[NDArray[np.int32], FlowField]:
    """The labels of an image of some shape, and the flow field at that shape on the host."""
    resized = field.resized((shape[0], shape[1]))
    host = resized.to_host()
    return field_to_labels(host, settings), host


def field_to_labels(field: FlowField, settings: CellTypeSettings) -> NDArray[np.int32]:
    """The labels of a flow field."""
    instances = find_instances(
        field.flows,
        field.cellprob,
        cellprob_threshold=settings.cellprob_threshold,
        residuals=settings.flow_threshold > 0,
    )
    return instances.labels(instances.keep_mask(settings.flow_threshold, settings.min_size))


def save_fields(path: PathLike, flows: ArrayLike, cellprob: ArrayLike) -> None:
    """Write a flow field as float16 to an .npz file, atomically: 6 bytes a pixel."""
    half = [np.asarray(values, dtype=np.float16) for values in (flows, cellprob)]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, flows=half[0], cellprob=half[1])


def load_fields(path: PathLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flows (2, H, W) and cellprob (H, W) from what `save_fields` wrote."""
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return file["flows"].astype(np.float32), file["cellprob"].astype(np.float32)
    except (OSError, ValueError, LookupError, TypeError, EOFError, BadZipFile, AttributeError) as e:
        raise FlowsegError(
            "holds no flow field that can be read", file=path, remedy="predict it again"
        ) from e
