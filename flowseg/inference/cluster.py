"""A slide on the workers of a `dask.distributed` cluster.

The segmenter is sent to every worker once. A tile goes through the networks on whichever worker is
free; a block becomes labels where most of its tiles are. Blocks are put together here, in order, so
that the labels are those that one machine finds. Workers read the slide themselves: all need it at
the same path.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowseg.arrays.jit import set_threads, threads
from flowseg.errors import FlowsegError, require
from flowseg.inference.blocks import Block, BlockSizes, assemble
from flowseg.inference.flow_field import FlowField, to_host
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import SlidePlan
from flowseg.inference.tiles import Tile, cut_tiles, predict_tiles
from flowseg.io.image_source import ImageSource

LOCAL = "local"
"""The address of a cluster that is started on this machine and ends with the run."""

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class Cluster:
    """The workers of a `distributed.Client`, which hold a segmenter."""

    def __init__(self, client: Any, segmenter: Segmenter) -> None:
        self.client = client
        self.ensemble = segmenter.ensemble
        self.segmenter = client.scatter(segmenter, broadcast=True, hash=False)

    def segment(
        self,
        source: ImageSource,
        plan: SlidePlan,
        sizes: BlockSizes = BlockSizes(),  # noqa: B008
    ) -> Generator[Ints, None, None]:
        """As :func:`flowseg.inference.slides.segment_slide`, on the workers."""
        source = replace(source, path=source.path.resolve())
        rows = plan.blocks(sizes)
        return assemble(rows, self._labels(source, plan, [block for row in rows for block in row]))

    def _labels(self, source: ImageSource, plan: SlidePlan, blocks: list[Block]) -> Iterator[Ints]:
        """The labels of all blocks in order; few blocks are under way, and the tiles they need."""
        limit = 2 * sum(self.client.nthreads().values())
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
                    predicted[index] = self._submit(
                        _predict_tile, self.segmenter, source, plan, tile
                    )
            maps = [predicted[index] for index in needed]
            waiting.append(self._submit(_label_block, plan, block, list(needed.values()), maps))
            if len(waiting) > limit:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _submit(self, work: Any, *arguments: Any) -> Any:
        return self.client.submit(work, *arguments, pure=False)

    def _result(self, task: Any) -> Ints:
        try:
            return np.asarray(task.result())
        except require("distributed", "dask").scheduler.KilledWorker as error:
            raise FlowsegError(
                f"the workers of the cluster died one after the other: {error}",
                remedy="give each more memory, or fewer threads",
            ) from error


@contextmanager
def connect(address: str, segmenter: Segmenter, *, timeout: float = 20) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts.

    `address` is that of a scheduler, as in ``tcp://host:8786``, which has to answer within
    `timeout` seconds, or `LOCAL`: one worker for each GPU, where the segmenter computes on any of
    them, else a single one. Each worker picks a device of its own, as on this machine.
    """
    distributed = require("distributed", "dask")
    with ExitStack() as stack:
        target, workers = address, 0
        if address == LOCAL:
            on_any_gpu = segmenter.device == torch.device("cuda")
            workers = torch.cuda.device_count() if on_any_gpu else 1
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
        client.run(_set_up_worker, workers)
        yield Cluster(client, segmenter)


# --- on the workers -------------------------------------------------------------------------


def _set_up_worker(workers: int, dask_worker: Any) -> None:
    """Use the worker's threads; of several GPUs of this machine each worker sees its own."""
    set_threads(dask_worker.state.nthreads)
    torch.set_num_threads(dask_worker.state.nthreads)
    if workers > 1:  # before anything is computed with CUDA in the worker's process
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(workers)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[dask_worker.name % workers]


def _predict_tile(segmenter: Segmenter, source: ImageSource, plan: SlidePlan, tile: Tile) -> Floats:
    """Flows and cellprob of a tile without its halo, (3, h, w)."""
    with source.open_regions() as read:
        read_scaled = partial(plan.read_scaled, read)
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
