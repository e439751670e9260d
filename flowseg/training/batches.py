"""Training data: records to augmented crops, crops to batches, loader processes."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from flowseg.arrays.jit import set_threads, threads
from flowseg.config.schema import AugmentConfig, Config
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.flow.representation import labels_to_flows
from flowseg.io.opencv import load_cv2
from flowseg.training.augment import cut_crop, pad_crop, paste_cells, vary_intensity
from flowseg.training.decoded import IGNORED, DecodedImages
from flowseg.training.stopping import leave_signals_to_main

_BATCHES_EACH = 3  # two wait, one is being made
_PIXEL_BYTES = 16

_log = logging.getLogger(__name__)

_WORKER_ENDED = "DataLoader worker (pid"


class Batch(NamedTuple):
    """B crops of S x S pixels and their targets."""

    images: Tensor
    """(B, 1, S, S) float32."""
    flows: Tensor
    """(B, 2, S, S) float32: unit vectors (dy, dx) inside cells, zero outside."""
    inside: Tensor
    """(B, S, S) float32: 1 inside cells, 0 outside, -1 where it is not known."""
    cell_type: Tensor
    """(B,) int64: index into the card's cell types."""


class CropDataset(Dataset[Batch]):
    """An endless sequence of augmented crops; crop i is a function of the seed and i alone.

    The cell types of `config` have known diameters, and their order numbers them. For each crop of
    `records` there are ``config.data.extra_weight`` crops of the images `extra`. Images that do not
    fit into ``config.data.cache_mb`` are also kept in the folder `decoded`, if one is given.
    """

    def __init__(
        self,
        records: Sequence[Record],
        config: Config,
        extra: Sequence[Record] = (),
        balance: float = 0.0,
        decoded: Path | None = None,
    ) -> None:
        if not records:
            raise FlowsegError("there is no image to train on")
        self._records = [*records, *extra]
        weight = config.data.extra_weight if extra else 0.0
        self._extra_share = weight / (1 + weight)
        self._augment: AugmentConfig = config.augment
        self._seed = config.seed
        cells = config.cell_types
        self._types = [list(cells).index(record.cell_type) for record in self._records]
        types = np.array(self._types[: len(records)])
        self._of_type = [np.flatnonzero(types == index) for index in range(len(cells))]
        self._weights = np.bincount(types)[types] ** -balance
        self._extra_weights = np.ones(len(extra))
        self._zooms = [
            config.network.target_diameter / (cell.diameter or np.nan) for cell in cells.values()
        ]
        self._decoded = DecodedImages(
            self._records, config.data.cache_mb, config.normalization, decoded
        )

    def __getitem__(self, number: int) -> Batch:
        image_index = self._image_of(number)
        rng = np.random.default_rng([self._seed, 1, number])
        image, labels = self._decoded.get(self._records[image_index])
        cell_type = self._types[image_index]
        zoom = self._zooms[cell_type]
        if rng.random() < self._augment.swap_scale_fraction:
            zoom = self._zooms[rng.integers(len(self._zooms))]
        margin = self._augment.crop_size // 8
        crop, ids = cut_crop(image, labels, zoom, margin, self._augment, rng)
        if self._augment.paste_fraction > 0:
            same_type = self._of_type[cell_type]
            source_index = same_type[rng.integers(len(same_type))]
            image, labels = self._decoded.get(self._records[source_index])
            source = cut_crop(image, labels, zoom, margin, self._augment, rng)
            crop, ids = paste_cells((crop, ids), source, self._augment.paste_fraction, rng)
        crop, ids = pad_crop((crop, ids), self._augment.padding_fraction, rng)
        flows = labels_to_flows(np.maximum(ids, 0))
        inner = slice(margin, margin + self._augment.crop_size)
        return Batch(
            torch.from_numpy(vary_intensity(crop, self._augment, rng))[None],
            torch.from_numpy(np.ascontiguousarray(flows[:, inner, inner])),
            torch.from_numpy(np.clip(ids[inner, inner], IGNORED, 1).astype(np.float32)),
            torch.tensor(cell_type),
        )

    def _image_of(self, number: int) -> int:
        """The index of the image that a crop is cut from: each as often as its weight says.

        Labelled and extra images are interleaved by their shares and drawn in rounds of their own.
        """
        extra_drawn = int(number * self._extra_share)
        if int((number + 1) * self._extra_share) > extra_drawn:
            return len(self._weights) + self._draw(extra_drawn, self._extra_weights, 2)
        return self._draw(number - extra_drawn, self._weights, 0)

    def _draw(self, number: int, weights: NDArray[np.float64], stream: int) -> int:
        """The number-th draw by systematic resampling, in rounds of as many draws as images."""
        turn, position = divmod(number, weights.size)
        rng = np.random.default_rng([self._seed, stream, turn])
        order = rng.permutation(weights.size)
        # Each image is a stretch of a line as long as its weight; even marks on it are drawn.
        ends = np.cumsum(weights[order])
        marks = (np.arange(weights.size) + rng.random()) * (ends[-1] / weights.size)
        drawn = order[np.minimum(np.searchsorted(ends, marks), weights.size - 1)]
        return int(rng.permutation(drawn)[position])


def batches(
    dataset: Dataset[Batch], firsts: range, batch_size: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Load batches of consecutive crops; they do not depend on the number of workers.

    `firsts` are the numbers of the first crop of each batch. With `pin` batches lie in pinned
    memory, from which CUDA copies without waiting.
    """
    context = _process_context()
    started = context.Event() if workers else None
    loader = DataLoader(
        _BatchDataset(dataset, batch_size),
        batch_size=None,  # an item is a batch
        sampler=firsts,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        worker_init_fn=partial(_start_worker, started),
        pin_memory=pin,
    )
    try:
        for batch in loader:
            if isinstance(batch, FlowsegError):
                raise batch
            yield batch
    except RuntimeError as error:
        if started is None or started.is_set() or _WORKER_ENDED not in str(error):
            raise
        raise FlowsegError(
            "the processes that prepare training crops cannot start",
            remedy="each imports the script again: it has to be a file that calls flowseg below "
            "`if __name__ == '__main__':`; or set training.workers=0",
        ) from error


def _process_context() -> Any:
    """How loader processes start: forked from a server that has the imports and no threads.

    A fork of this process may hang, as numba or torch have started threads in it. Where there is no
    such server (Windows), each process imports for itself.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def loader_processes(wanted: int | None, device: torch.device, batch_size: int, edge: int) -> int:
    """Number of loader processes: `wanted`, or what suits the device, the cores and the memory.

    Batches of `batch_size` crops of `edge` pixels lie in shared memory, which in a container may be
    small.
    """
    if wanted is not None or device.type == "cpu":
        return wanted or 0
    # Not torch's number of threads: torchrun sets it to 1.
    count = max(1, threads() - 2)
    room = _shared_memory() // (_BATCHES_EACH * batch_size * edge**2 * _PIXEL_BYTES)
    if room < count:
        _log.warning(
            "%d processes prepare crops, not %d: there is little shared memory; in a container "
            "give /dev/shm more (--shm-size)",
            max(1, room),
            count,
        )
    return max(1, min(count, room))


def _shared_memory() -> int:
    """Free bytes of the file system through which processes share tensors; elsewhere plenty."""
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return sys.maxsize


@contextmanager
def report_worker_crash() -> Iterator[None]:
    """Raise a FlowsegError where torch reports that a loader process was killed.

    Torch raises it wherever the main thread happens to be, not only while waiting for a batch.
    """
    try:
        yield
    except RuntimeError as error:
        if _WORKER_ENDED not in str(error):
            raise
        raise FlowsegError(
            "a process that prepares training crops was killed",
            remedy="if memory ran out, lower training.workers or data.cache_mb (in a container, "
            "give /dev/shm more); then --resume",
        ) from error


class _BatchDataset(Dataset["Batch | FlowsegError"]):
    """Batches by the number of their first crop.

    Errors are returned: torch would wrap one that is raised in a worker in its traceback.
    """

    def __init__(self, crops: Dataset[Batch], batch_size: int) -> None:
        self._crops, self._batch_size = crops, batch_size

    def __getitem__(self, first: int) -> Batch | FlowsegError:
        numbers = range(first, first + self._batch_size)
        try:
            batch: Batch = default_collate([self._crops[number] for number in numbers])
        except FlowsegError as error:
            return error
        return batch


def _start_worker(started: Event | None, _: int) -> None:
    """Loader processes share the cores: one thread each."""
    leave_signals_to_main()
    if started is not None:
        started.set()
    set_threads(1)
    load_cv2().setNumThreads(1)
