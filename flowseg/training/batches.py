"""Training data: records to augmented crops, crops to batches, loader processes."""

from __future__ import annotations

import multiprocessing
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from flowseg.arrays.intensity import Normalization, normalize
from flowseg.arrays.jit import set_threads, threads
from flowseg.arrays.labels import keep_largest_component
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.config.schema import AugmentConfig, Config
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.flow.representation import labels_to_flows
from flowseg.io.opencv import load_cv2
from flowseg.training.augment import Labelled, cut_crop, paste_cells, vary_intensity

_WORKER_ENDED = "DataLoader worker (pid"


class Batch(NamedTuple):
    """B crops of S x S pixels and their targets."""

    images: Tensor
    """(B, 1, S, S) float32."""
    flows: Tensor
    """(B, 2, S, S) float32: unit vectors (dy, dx) inside cells, zero outside."""
    inside: Tensor
    """(B, S, S) float32: 1 inside cells, 0 outside."""
    cell_type: Tensor
    """(B,) int64: index into the card's cell types."""


class CropDataset(Dataset[Batch]):
    """An endless sequence of augmented crops; crop i is a function of the seed and i alone.

    The cell types of `config` have known diameters, and their order numbers them. For each crop of
    `records` there are ``config.data.extra_weight`` crops of the images `extra`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        config: Config,
        extra: Sequence[Record] = (),
        balance: float = 0.0,
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
        self._cache = _Cache(config.data.cache_mb, config.normalization)

    def __getitem__(self, number: int) -> Batch:
        image_index = self._image_of(number)
        rng = np.random.default_rng([self._seed, 1, number])
        image, labels = self._cache.get(self._records[image_index])
        cell_type = self._types[image_index]
        zoom = self._zooms[cell_type]
        if rng.random() < self._augment.swap_scale_fraction:
            zoom = self._zooms[rng.integers(len(self._zooms))]
        margin = self._augment.crop_size // 8
        crop, ids = cut_crop(image, labels, zoom, margin, self._augment, rng)
        if self._augment.paste_fraction > 0:
            same_type = self._of_type[cell_type]
            source_index = same_type[rng.integers(len(same_type))]
            image, labels = self._cache.get(self._records[source_index])
            source = cut_crop(image, labels, zoom, margin, self._augment, rng)
            crop, ids = paste_cells((crop, ids), source, self._augment.paste_fraction, rng)
        flows = labels_to_flows(ids)
        inner = slice(margin, margin + self._augment.crop_size)
        return Batch(
            torch.from_numpy(vary_intensity(crop, self._augment, rng))[None],
            torch.from_numpy(np.ascontiguousarray(flows[:, inner, inner])),
            torch.from_numpy((ids[inner, inner] > 0).astype(np.float32)),
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
    dataset: CropDataset, firsts: range, batch_size: int, workers: int, pin: bool
) -> Iterator[Batch]:
    """Load batches of consecutive crops; they do not depend on the number of workers.

    `firsts` are the numbers of the first crop of each batch. With `pin` batches lie in pinned
    memory, from which CUDA copies without waiting.
    """
    context = multiprocessing.get_context("spawn")
    started = context.Event() if workers else None
    loader = DataLoader(
        _BatchDataset(dataset, batch_size),
        batch_size=None,  # an item is a batch
        sampler=firsts,
        num_workers=workers,
        # A fork after numba or torch has started threads may hang.
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


def loader_processes(wanted: int | None, device: torch.device) -> int:
    """Number of loader processes: `wanted`, or what suits the device and the number of cores."""
    if wanted is not None:
        return wanted
    # Not torch's number of threads: torchrun sets it to 1.
    return 0 if device.type == "cpu" else max(1, threads() - 2)


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

    def __init__(self, crops: CropDataset, batch_size: int) -> None:
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
    if started is not None:
        started.set()
    set_threads(1)
    load_cv2().setNumThreads(1)


class _Cache:
    """A least-recently-used cache of normalised images and labels, limited in size."""

    def __init__(self, megabytes: int, normalization: Normalization) -> None:
        self._normalization = normalization
        self._limit = megabytes * 2**20
        self._size = 0
        self._items: OrderedDict[str, Labelled] = OrderedDict()

    def get(self, record: Record) -> Labelled:
        if record.image_id in self._items:
            self._items.move_to_end(record.image_id)
            return self._items[record.image_id]
        # A cell may be cut in two by one on top; each component would have a centre of its own.
        labels = keep_largest_component(masks_to_labels(record.masks()))
        item = (normalize(record.image(), how=self._normalization), labels)
        self._items[record.image_id] = item
        self._size += item[0].nbytes + item[1].nbytes
        while self._size > self._limit and len(self._items) > 1:
            _, (image, labels) = self._items.popitem(last=False)
            self._size -= image.nbytes + labels.nbytes
        return item
