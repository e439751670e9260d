"""Images and slides on the workers of a `dask.distributed` cluster.

Every worker holds the segmenter, also one that joins later. An image is done by whichever worker is
free. Of a slide a tile goes through the networks on any, and a block becomes labels where most of
its tiles are; blocks are put together here, in order. So the results are those that one machine
finds, and what a worker that died had under way is done by another. Workers read the images
themselves: all need them at the same path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray

from flowseg.arrays.jit import threads
from flowseg.errors import FlowsegError, require
from flowseg.inference.blocks import Block, BlockSizes, assemble
from flowseg.inference.flow_field import FlowField, to_host
from flowseg.inference.pipeline import Outcome, outcome_of
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import SlidePlan
from flowseg.inference.tiles import Tile, cut_tiles, predict_tiles
from flowseg.io.image_source import ImageSource

LOCAL = "local"
"""The address of a cluster that is started on this machine and ends with the run."""

Result = TypeVar("Result")
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class Cluster:
    """The workers of a `distributed.Client`, which hold a segmenter.

    `gpus` counts those that the workers of a local cluster share.
    """

    def __init__(self, client: Any, segmenter: Segmenter, gpus: int = 0) -> None:
        from flowseg.inference.worker import SegmenterPlugin, call

        self.client = client
        self.ensemble = segmenter.ensemble
        self.name = f"flowseg-{uuid4().hex}"
        self.call = call
        client.register_plugin(SegmenterPlugin(segmenter, gpus), name=self.name)

    def close(self) -> None:
        """Let the workers forget the segmenter, unless the scheduler has gone."""
        if self.client.status == "running":
            self.client.unregister_worker_plugin(self.name)

    def map(
        self, images: Iterable[ImageSource], work: Callable[[Segmenter, ImageSource], Result]
    ) -> Generator[Outcome[ImageSource, Result], None, None]:
        """Do some work on each image; outcomes come in the order of the images.

        As in :func:`flowseg.inference.pipeline.pipeline` an error stops its own image only.
        """
        waiting: deque[tuple[ImageSource, Callable[[], Result]]] = deque()
        for image in images:
            task = self._submit(work, _absolute(image))
            waiting.append((image, partial(self._result, task)))
            while len(waiting) > self._limit():
                yield outcome_of(*waiting.popleft())
        while waiting:
            yield outcome_of(*waiting.popleft())

    def segment(
        self,
        source: ImageSource,
        plan: SlidePlan,
        sizes: BlockSizes = BlockSizes(),  # noqa: B008
    ) -> Generator[Ints, None, None]:
        """As :func:`flowseg.inference.slides.segment_slide`, on the workers."""
        source = _absolute(source)
        rows = plan.blocks(sizes)
        return assemble(rows, self._labels(source, plan, [block for row in rows for block in row]))

    def _labels(self, source: ImageSource, plan: SlidePlan, blocks: list[Block]) -> Iterator[Ints]:
        """The labels of all blocks in order; few blocks are under way, and the tiles they need."""
        limit = self._limit()
        tiles = cut_tiles(plan.scaled, self.ensemble)
        predicted: dict[tuple[int, int], Any] = {}
        waiting: deque[Any] = deque()
        for block in blocks:
            rows, columns = plan.footprint(block.window)
            needed = {
                (i, j): tile
                for i, row in enumerate(tiles)
                for j, tile in enumerate(row)
                if _overlap(tile.write[0], rows) and _overlap(tile.write[1], columns)
            }
            # No later block needs tiles above these; the cluster forgets what has no future left.
            top = min(needed)[0]
            predicted = {index: task for index, task in predicted.items() if index[0] >= top}
            for index, tile in needed.items():
                if index not in predicted:
                    work = partial(_predict_tile, source=source, plan=plan)
                    predicted[index] = self._submit(work, tile)
            maps = [predicted[index] for index in needed]
            waiting.append(
                self.client.submit(
                    _label_block, plan, block, list(needed.values()), maps, pure=False
                )
            )
            if len(waiting) > limit:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _limit(self) -> int:
        """How many tasks are under way at once: no worker, of those there are now, is to wait."""
        return 2 * int(sum(self.client.nthreads().values()))

    def _submit(self, work: Callable[[Segmenter, Any], Any], item: Any) -> Any:
        return self.client.submit(self.call, self.name, work, item, pure=False)

    def _result(self, task: Any) -> Any:
        try:
            return task.result()
        except require("distributed", "dask").scheduler.KilledWorker as error:
            raise FlowsegError(
                f"the workers of the cluster died one after the other: {error}",
                remedy="give each more memory, or fewer threads",
            ) from error
        except CancelledError as error:
            raise _LostError from error


class _LostError(Exception):
    """The scheduler has gone."""


@contextmanager
def connect(address: str, segmenter: Segmenter, *, timeout: float = 20) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts.

    `address` is that of a scheduler, as in ``tcp://host:8786``, which has to answer within
    `timeout` seconds, or `LOCAL`: one worker for each GPU, where the segmenter computes on any of
    them, else a single one. Each worker picks a device of its own, as on this machine.
    """
    distributed = require("distributed", "dask")
    with ExitStack() as stack:
        target, gpus = address, 0
        if address == LOCAL:
            gpus = torch.cuda.device_count() if segmenter.device == torch.device("cuda") else 0
            workers = max(1, gpus)
            target = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=max(1, threads() // workers),
                    dashboard_address=None,
                )
            )
        try:
            client = stack.enter_context(distributed.Client(target, timeout=timeout))
        except (OSError, ValueError) as error:
            raise FlowsegError(
                f"no Dask scheduler answers at {address!r}: {error}",
                remedy="start one (dask scheduler) and workers (dask worker ADDRESS), or leave the "
                "address out",
            ) from error
        if not client.nthreads():
            raise FlowsegError(
                f"the Dask scheduler at {address!r} has no worker",
                remedy=f"start some: dask worker {address}",
            )
        cluster = Cluster(client, segmenter, gpus)
        stack.callback(cluster.close)
        try:
            yield cluster
        except _LostError as error:
            raise FlowsegError(
                f"the Dask scheduler at {address!r} has gone",
                remedy="start it again, and give the same command: what is finished is kept",
            ) from error


def _absolute(source: ImageSource) -> ImageSource:
    """The source as workers find it, which have other working folders."""
    nuclei = None if source.nuclei is None else _absolute(source.nuclei)
    return replace(source, path=source.path.absolute(), nuclei=nuclei)


# --- on the workers -------------------------------------------------------------------------


def _predict_tile(segmenter: Segmenter, tile: Tile, source: ImageSource, plan: SlidePlan) -> Floats:
    """Flows and cellprob of a tile without its halo, (3, h, w)."""
    with source.open_planes() as reads:
        read_scaled = partial(plan.read_scaled, reads)
        ((_, field),) = predict_tiles(segmenter.ensemble, read_scaled, [tile], styles=plan.styles)
    return np.ascontiguousarray(to_host(field.maps))


def _label_block(plan: SlidePlan, block: Block, tiles: list[Tile], predicted: list[Floats]) -> Ints:
    """The labels of a block's window."""
    top, left = (min(tile.write[axis].start for tile in tiles) for axis in (0, 1))
    bottom, right = (max(tile.write[axis].stop for tile in tiles) for axis in (0, 1))
    scaled = np.empty((3, bottom - top, right - left), np.float32)
    for tile, maps in zip(tiles, predicted, strict=True):
        y, x = tile.write
        scaled[:, y.start - top : y.stop - top, x.start - left : x.stop - left] = maps
    maps = plan.restore(scaled, (top, left), block.window)
    return plan.labels(FlowField(maps[:2], maps[2]), block)


def _overlap(one: slice, other: slice) -> bool:
    return bool(one.start < other.stop and other.start < one.stop)
