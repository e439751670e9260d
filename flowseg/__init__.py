"""Instance segmentation of neurons in phase-contrast images with flow fields.

The public names are imported when first used, so that ``import flowseg`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowseg._version import __version__

if TYPE_CHECKING:
    from flowseg.arrays.rle import rle_decode, rle_encode
    from flowseg.config.loading import load_config
    from flowseg.config.schema import Config
    from flowseg.errors import FlowsegError
    from flowseg.evaluation.evaluate import evaluate
    from flowseg.flow.representation import flows_to_labels, labels_to_flows
    from flowseg.inference.segmenter import Segmenter
    from flowseg.metrics.competition import competition_score
    from flowseg.prediction.predict import predict
    from flowseg.training.cross_validation import cross_validate
    from flowseg.training.run import train

_HOMES = {
    "Config": "flowseg.config.schema",
    "FlowsegError": "flowseg.errors",
    "Segmenter": "flowseg.inference.segmenter",
    "competition_score": "flowseg.metrics.competition",
    "cross_validate": "flowseg.training.cross_validation",
    "evaluate": "flowseg.evaluation.evaluate",
    "flows_to_labels": "flowseg.flow.representation",
    "labels_to_flows": "flowseg.flow.representation",
    "load_config": "flowseg.config.loading",
    "predict": "flowseg.prediction.predict",
    "rle_decode": "flowseg.arrays.rle",
    "rle_encode": "flowseg.arrays.rle",
    "train": "flowseg.training.run",
}

__all__ = [
    "Config",
    "FlowsegError",
    "Segmenter",
    "__version__",
    "competition_score",
    "cross_validate",
    "evaluate",
    "flows_to_labels",
    "labels_to_flows",
    "load_config",
    "predict",
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
