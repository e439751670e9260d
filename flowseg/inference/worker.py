"""What a Dask worker holds while a prediction runs: the segmenter. Needs distributed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import TypeVar

import torch
from distributed import Worker, WorkerPlugin, get_worker

from flowseg._version import __version__
from flowseg.arrays.jit import set_threads
from flowseg.errors import FlowsegError
from flowseg.inference.segmenter import Segmenter

Item = TypeVar("Item")
Result = TypeVar("Result")


class SegmenterPlugin(WorkerPlugin):  # type: ignore[misc]
    """Sets up every worker of a cluster, also those that join later or are started again.

    `gpus` counts those of this machine that the workers of a local cluster share.
    """

    def __init__(self, segmenter: Segmenter, gpus: int) -> None:
        # Unpickled, it takes a device: only the worker itself may do that.
        self.pickled = pickle.dumps(segmenter)
        self.version = __version__
        self.gpus = gpus
        self.segmenter: Segmenter | None = None

    def setup(self, worker: Worker) -> None:
        """Use the worker's threads, and of several GPUs its own."""
        if __version__ != self.version:
            raise FlowsegError(
                f"the Dask worker {worker.address} has flowseg {__version__}, not {self.version}",
                remedy="install the same version on all machines",
            )
        set_threads(worker.state.nthreads)
        torch.set_num_threads(worker.state.nthreads)
        if self.gpus > 1:  # before anything is computed with CUDA in the worker's process
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self.gpus)))
            os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[worker.name % self.gpus]
        self.segmenter, self.pickled = pickle.loads(self.pickled), b""


def call(plugin: str, work: Callable[[Segmenter, Item], Result], item: Item) -> Result:
    """Do `work` on an item with the segmenter of the worker that this runs on."""
    return work(get_worker().plugins[plugin].segmenter, item)
