"""A whole slide on many machines: its tiles and blocks are tasks of a `dask.distributed` cluster.

A tile goes through the networks once, on whichever worker is free; a block is followed where most
of its tiles are. Blocks are put together here, in order, so that the labels are those that one
machine finds. Workers open the slide and the checkpoints themselves: all need the same files at the
same place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from flowseg.arrays.jit import set_threads, threads
from flowseg.errors import FlowsegError
from flowseg.inference.blocks import Block, BlockSizes, assemble
from flowseg.inference.flow_field import FlowField, field_to_labels, to_host
from flowseg.inference.rescale import rescale_part
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import SlidePlan
from flowseg.inference.tiles import Tile, predict_tiles, tile_rows
from flowseg.io.image_source import ImageSource, ReadRegion

__all__ = ["LOCAL", "Cluster", "Recipe", "connect", "load_distributed"]

LOCAL = "local"
"""The address of a cluster that is started on this machine and ends with the run."""

_PATIENCE = 20  # seconds until a scheduler has to answer

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]
Region = tuple[slice, slice]


class Recipe(NamedTuple):
    """How a worker makes the segmenter.

    Attributes
    ----------
    models : tuple of str
        Checkpoints, by their full paths.
    key : str
        Another one for other weights, so that no worker keeps those of an earlier run.
    device, views, compile
        As for :class:`Segmenter`.
    """

    models: tuple[str, ...]
    key: str
    device: str
    tta: int
    compile: bool


class Cluster:
    """Workers that compute slides.

    Parameters
    ----------
    client : distributed.Client
    recipe : Recipe
    """

    def __init__(self, client: Any, recipe: Recipe) -> None:
        self.client = client
        self.recipe = recipe

    def segment(
        self,
        segmenter: Segmenter,
        page: ImageSource,
        read: ReadRegion,  # noqa: ARG002  (workers read for themselves)
        plan: SlidePlan,
        sizes: BlockSizes = BlockSizes(),  # noqa: B008
    ) -> Generator[Ints, None, None]:
        """As :func:`flowseg.inference.slides.segment_slide`."""
        page = replace(page, path=page.path.resolve())
        rows = plan.blocks(sizes)
        blocks = [block for row in rows for block in row]
        tiles = tile_rows(plan.scaled, segmenter.ensemble)
        return assemble(rows, self._labels(page, plan, blocks, tiles))

    def _labels(
        self,
        page: ImageSource,
        plan: SlidePlan,
        blocks: Sequence[Block],
        tiles: Sequence[Sequence[Tile]],
    ) -> Iterator[Ints]:
        """The labels of all blocks in order; few blocks are under way, and the tiles they need."""
        ahead = 2 * sum(self.client.nthreads().values())
        answers: dict[tuple[int, int], Any] = {}
        waiting: deque[Any] = deque()
        for block in blocks:
            rows, columns = plan.seen_by_networks(block.seen)
            wanted = [
                tile
                for row in tiles
                if _meet(row[0].write[0], rows)
                for tile in row
                if _meet(tile.write[1], columns)
            ]
            # No later block looks further up than this one; the cluster forgets what is let go.
            answers = {place: task for place, task in answers.items() if place[0] >= _top(wanted)}
            for tile in wanted:
                if _place(tile) not in answers:
                    answers[_place(tile)] = self._submit(_predict_tile, page, plan, tile)
            maps = [answers[_place(tile)] for tile in wanted]
            waiting.append(self._submit(_label_block, plan, block, wanted, maps))
            if len(waiting) > ahead:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _submit(self, work: Any, *arguments: Any) -> Any:
        return self.client.submit(work, self.recipe, *arguments, pure=False)

    def _result(self, task: Any) -> Ints:
        try:
            return np.asarray(task.result())
        except load_distributed().scheduler.KilledWorker as error:
            raise FlowsegError(
                f"the workers of the cluster died one after the other: {error}",
                remedy="give each more memory, or fewer threads",
            ) from error


def load_distributed() -> Any:
    """The package distributed, or an error that says how to install it."""
    try:
        import distributed
    except ImportError as error:
        raise FlowsegError(
            "a cluster needs another package", remedy="install it: pip install 'flowseg[dask]'"
        ) from error
    return distributed


@contextmanager
def connect(address: str, recipe: Recipe) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts.

    Parameters
    ----------
    address : str
        Of a scheduler, as in ``tcp://host:8786``, or `LOCAL`: one worker for each GPU that is to be
        used, else a single one.
    recipe : Recipe

    Raises
    ------
    FlowsegError
        Where dask is not installed, or no scheduler answers.
    """
    distributed = load_distributed()
    if address == LOCAL:
        gpus = torch.cuda.device_count() if recipe.device in ("auto", "cuda") else 0
        workers = max(1, gpus)
        with (
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=max(1, threads() // workers),
                dashboard_address=None,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield Cluster(client, recipe)
        return
    try:
        client = distributed.Client(address, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise FlowsegError(
            f"no Dask scheduler answers at {address!r}: {error}",
            remedy="start one (dask scheduler) and workers (dask worker ADDRESS), or leave the "
            "address out",
        ) from error
    with client:
        if not client.nthreads():
            raise FlowsegError(
                f"the Dask scheduler at {address!r} has no worker",
                remedy=f"start some: dask worker {address}",
            )
        yield Cluster(client, recipe)


# --- on the workers -------------------------------------------------------------------------

_lock = Lock()


def _predict_tile(recipe: Recipe, page: ImageSource, plan: SlidePlan, tile: Tile) -> Floats:
    """What the networks say of a tile: flows and cellprob of what it keeps, (3, h, w)."""
    ensemble = _segmenter(recipe).ensemble
    with page.open_regions() as read:
        ((_, answer),) = predict_tiles(ensemble, lambda y, x: plan.pixels(read, y, x), [tile])
    return np.ascontiguousarray(to_host(answer.maps[(0, slice(None), *tile.keep)]))


def _label_block(
    recipe: Recipe, plan: SlidePlan, block: Block, tiles: Sequence[Tile], answers: Sequence[Floats]
) -> Ints:
    """The labels of what a block sees."""
    top, left = _top(tiles), min(tile.write[1].start for tile in tiles)
    bottom, right = (max(tile.write[axis].stop for tile in tiles) for axis in (0, 1))
    maps = np.empty((3, bottom - top, right - left), np.float32)
    for tile, answer in zip(tiles, answers, strict=True):
        y, x = tile.write
        maps[:, y.start - top : y.stop - top, x.start - left : x.stop - left] = answer
    own = np.stack(
        [rescale_part(one, (top, left), plan.scaled, plan.shape, block.seen) for one in maps]
    )
    field = FlowField(own[:2], own[2], np.zeros(0, np.float32))
    return field_to_labels(field, plan.settings, _segmenter(recipe).device)


def _segmenter(recipe: Recipe) -> Segmenter:
    with _lock:
        return _loaded(recipe)


@lru_cache(maxsize=1)
def _loaded(recipe: Recipe) -> Segmenter:
    worker = load_distributed().get_worker()
    set_threads(worker.state.nthreads)
    torch.set_num_threads(worker.state.nthreads)
    device = recipe.device
    gpus = torch.cuda.device_count()
    # Workers of a local cluster are numbered, and each takes a GPU of its own.
    if gpus and device in ("auto", "cuda") and isinstance(worker.name, int):
        device = f"cuda:{worker.name % gpus}"
    return Segmenter.load(recipe.models, device, tta=recipe.tta, compile=recipe.compile)


def _place(tile: Tile) -> tuple[int, int]:
    return tile.write[0].start, tile.write[1].start


def _top(tiles: Sequence[Tile]) -> int:
    return int(min(tile.write[0].start for tile in tiles))


def _meet(one: slice, other: slice) -> bool:
    return bool(one.start < other.stop and other.start < one.stop)
