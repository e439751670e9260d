"""Many images through the segmenter: reading, network, dynamics and writing side by side.

Every step runs on threads of its own. The compiled loops, torch and the image codecs release
Python's global lock, so that one process keeps all cores and the device busy. Results come in the
order of the images, and the number of pixels under way is bounded, so that memory does not grow
with the number of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.jit import Workers, threads
from flowseg.errors import FlowsegError, as_user_error
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import (
    Prediction,
    ScaledPrediction,
    Segmenter,
    postprocess,
    predict,
    preprocess,
)

Item = TypeVar("Item")
Result = TypeVar("Result")
Grey = NDArray[np.float32]

_PIXELS = 2**24
"""Pixels under way at once; a larger image goes alone."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """The result of one item, or the error that stopped it."""

    item: Item
    result: Result | None
    error: FlowsegError | None

    def get(self) -> Result:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        return cast(Result, self.result)


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline: a function of an item, and the number of its threads."""

    work: Callable[[Any], Any]
    workers: int


def pipeline(
    items: Iterable[Item],
    stages: Sequence[Stage],
    *,
    weight: Callable[[Item], int],
    limit: int,
    ahead: int,
) -> Generator[Outcome[Item, Any], None, None]:
    """Pass each item through all stages; while one item is in a stage, others are in the others.

    Each stage takes what the one before it returns. At most `ahead` items are under way, and of
    a total `weight` of at most `limit`, unless one alone exceeds it. Outcomes come in the order of
    the items. A FlowsegError stops its own item only, and so does a lack of memory, unless a thread
    has died of it; that and any other error end the pipeline.

    Whoever does not take all outcomes closes it (``contextlib.closing``). Left to Python's garbage
    collector it may end in one of its own threads, which then waits for itself.
    """
    with ExitStack() as stack:
        # The threads of a stage share the cores that compiled loops may use.
        pools = [stack.enter_context(Workers(stage.workers)) for stage in stages]
        waiting: deque[tuple[Item, Callable[[], Any]]] = deque()

        def take() -> Outcome[Item, Any]:
            outcome = outcome_of(*waiting.popleft())
            if outcome.error is not None and any(pool.lost_one() for pool in pools):
                raise outcome.error  # what comes after would lack that thread, too
            return outcome

        try:
            for item in items:
                while waiting and (
                    len(waiting) >= ahead
                    or sum(weight(other) for other, _ in waiting) + weight(item) > limit
                ):
                    yield take()
                first: Future[Any] = Future()
                first.set_result(item)
                result: Callable[[], Any] = first.result
                for pool, stage in zip(pools, stages, strict=True):
                    result = partial(pool.result_of, pool.submit(_work, stage, result))
                waiting.append((item, result))
            while waiting:
                yield take()
        finally:
            # Reached early when the caller stops or an error ends it all: start nothing more.
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)


def segment_many(
    segmenter: Segmenter,
    items: Iterable[Item],
    options: SegmentOptions,
    *,
    read: Callable[[Item], NDArray[Any]],
    write: Callable[[Item, Grey, Prediction], Result],
    weight: Callable[[Item], int],
    read_nuclei: Callable[[Item], NDArray[Any] | None] = lambda _: None,
) -> Generator[Outcome[Item, Result], None, None]:
    """Segment many images side by side, in bounded memory; outcomes come in the order of `items`.

    `read` makes an image of an item, `read_nuclei` that of its nuclei, and `write` a result of an
    item, its normalised grey image and its prediction; both run on several threads. `weight` is the
    number of pixels of the image.
    """

    def read_grey(item: Item) -> tuple[Item, Grey]:
        return item, preprocess(segmenter, read(item), read_nuclei(item))

    def run_networks(job: tuple[Item, Grey]) -> tuple[Item, Grey, ScaledPrediction]:
        item, grey = job
        return item, grey, predict(segmenter, grey, options)

    def write_labels(job: tuple[Item, Grey, ScaledPrediction]) -> Result:
        item, grey, predicted = job
        cells = grey if grey.ndim == 2 else grey[0]
        return write(item, cells, postprocess(segmenter, predicted))

    yield from on_device(segmenter, items, read_grey, run_networks, write_labels, weight)


def on_device(
    segmenter: Segmenter,
    items: Iterable[Item],
    read: Callable[[Item], Any],
    compute: Callable[[Any], Any],
    write: Callable[[Any], Result],
    weight: Callable[[Item], int],
) -> Generator[Outcome[Item, Result], None, None]:
    """A pipeline of three stages, the second on the segmenter's device; as many threads as suit it.

    `weight` is the number of pixels of an item.
    """
    # Where the network runs on the same cores, one thread to each side of it keeps up. A GPU takes
    # two images at once: while it computes one, the other is rescaled and launched.
    cores = 1 if segmenter.device.type == "cpu" else threads()
    networks = 2 if segmenter.device.type == "cuda" else 1

    stages = (
        Stage(read, min(cores, 8)),
        Stage(compute, networks),
        Stage(write, min(cores, 16)),
    )
    yield from pipeline(
        items,
        stages,
        weight=weight,
        limit=_PIXELS,
        ahead=sum(stage.workers for stage in stages) + 1,
    )


def _work(stage: Stage, previous: Callable[[], Any]) -> Any:
    return stage.work(previous())


def outcome_of(item: Item, result: Callable[[], Result]) -> Outcome[Item, Result]:
    """The result of an item, or the error that the user can fix; any other error is raised."""
    try:
        return Outcome(item, result(), None)
    except Exception as error:
        user_error = as_user_error(error)
        if user_error is None:
            raise
        return Outcome(item, None, user_error)
