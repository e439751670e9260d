"""flowseg finds every single neuron in a phase-contrast picture.

The public names are loaded when first used, so that ``import flowseg`` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flowseg.config import Config, load_config
    from flowseg.errors import FlowsegError
    from flowseg.evaluation.competition import competition_score
    from flowseg.evaluation.evaluate import evaluate
    from flowseg.flow.diffusion import labels_to_flows
    from flowseg.flow.dynamics import flows_to_labels
    from flowseg.inference.segmenter import Segmenter
    from flowseg.rle import rle_decode, rle_encode
    from flowseg.training.run import train

_HOMES = {
    "Config": "flowseg.config",
    "FlowsegError": "flowseg.errors",
    "Segmenter": "flowseg.inference.segmenter",
    "competition_score": "flowseg.evaluation.competition",
    "evaluate": "flowseg.evaluation.evaluate",
    "flows_to_labels": "flowseg.flow.dynamics",
    "labels_to_flows": "flowseg.flow.diffusion",
    "load_config": "flowseg.config",
    "rle_decode": "flowseg.rle",
    "rle_encode": "flowseg.rle",
    "train": "flowseg.training.run",
}

__all__ = [
    "Config",
    "FlowsegError",
    "Segmenter",
    "__version__",
    "competition_score",
    "evaluate",
    "flows_to_labels",
    "labels_to_flows",
    "load_config",
    "rle_decode",
    "rle_encode",
    "train",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'flowseg' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
