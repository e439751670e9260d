"""One side of benchmarks/dynamics.py: answers tasks from standard input, in its own interpreter.

It imports nothing of flowseg unless it is flowseg's own side, so that it runs where only the peer
is installed. A task is ("flows", labels) or ("labels", flows, cellprob, flow_threshold), pickled;
the answer is (seconds, array).
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import pickle
import sys
import time
import types
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Sides = tuple[str, Callable[[Any], Any], Callable[[Any, Any, float], Any]]


def ours(threads: int) -> Sides:
    from flowseg import flows_to_labels, labels_to_flows
    from flowseg._version import __version__
    from flowseg.arrays.jit import set_threads

    set_threads(threads)

    def to_labels(flows: Any, cellprob: Any, threshold: float) -> Any:
        return flows_to_labels(flows, cellprob, flow_threshold=threshold)

    return f"flowseg {__version__}", labels_to_flows, to_labels


def cellpose(threads: int) -> Sides:
    """Cellpose 3 or 4, whichever this interpreter has, on its own scale of flows (times 5)."""
    from importlib.metadata import version

    import torch

    torch.set_num_threads(threads)
    try:
        import_module("torchvision")
    except ImportError:  # 4.x imports it for augmentations, of which the dynamics need none
        for name in ("", ".transforms", ".transforms.functional", ".transforms._functional_tensor"):
            module = types.ModuleType("torchvision" + name)
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            sys.modules[module.__name__] = module
            if name:
                parent, _, child = module.__name__.rpartition(".")
                setattr(sys.modules[parent], child, module)
    dynamics = import_module("cellpose.dynamics")
    cpu = torch.device("cpu")

    def to_flows(labels: Any) -> Any:
        image = labels.astype(int)
        if hasattr(dynamics, "masks_to_flows"):
            return dynamics.masks_to_flows(image, device=cpu)
        return dynamics.masks_to_flows_gpu(image, device=cpu)[0]

    def to_labels(flows: Any, cellprob: Any, threshold: float) -> Any:
        return dynamics.resize_and_compute_masks(
            5 * flows, cellprob, niter=200, flow_threshold=threshold, min_size=15, device=cpu
        )

    return f"cellpose {version('cellpose')}", to_flows, to_labels


def main() -> None:
    side, threads = sys.argv[1], int(sys.argv[2])
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a peer prints must not get between the answers
    warnings.simplefilter("ignore")
    name, to_flows, to_labels = (ours if side == "flowseg" else cellpose)(threads)
    pickle.dump(name, out)
    out.flush()
    with contextlib.suppress(EOFError):
        while True:
            kind, *arguments = pickle.load(sys.stdin.buffer)
            start = time.perf_counter()
            result = to_flows(*arguments) if kind == "flows" else to_labels(*arguments)
            seconds = time.perf_counter() - start
            pickle.dump((seconds, np.ascontiguousarray(result)), out)
            out.flush()


if __name__ == "__main__":
    main()
