"""A network as a program of other engines: ONNX, and torch.export."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from flowseg.errors import require
from flowseg.io.atomic import atomic_path
from flowseg.io.paths import PathLike
from flowseg.network.architecture import Architecture
from flowseg.network.checkpoint import Card

INPUT = "images"
OUTPUTS = ("flows", "cellprob", "cell_type")

METADATA = "flowseg"
"""Name under which the card is kept in the file, as JSON."""


class _Program(nn.Module):
    """Images to unit flows, cellprob and logits of the cell types."""

    def __init__(self, network: Architecture) -> None:
        super().__init__()
        self.network = network.float().folded()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.network(images)
        return output.flows / self.network.config.flow_scale, output.cellprob, output.cell_type


def write_onnx(path: PathLike, network: Architecture, card: Card) -> None:
    """Write a network as ONNX, for batches and images of any size, with its card in the metadata.

    Input and outputs are those of `export_program`. Raises FlowsegError where the packages of the
    extra `onnx` are missing, or the file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "onnx")
    program = export_program(network)
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS), verbose=False
        )
    assert exported is not None  # it is None where torch writes the file itself
    exported.model.metadata_props[METADATA] = card.to_json()
    with atomic_path(path) as part:
        exported.save(part)


def write_torch_export(path: PathLike, network: Architecture, card: Card) -> None:
    """Write a network as a program of torch.export, with its card as an extra file.

    Raises FlowsegError if the file cannot be written.
    """
    extra_files = {f"{METADATA}.json": card.to_json()}
    with atomic_path(path) as part, _quiet():
        # A name that torch insists on.
        archive = part.with_name(f"{part.name}.pt2")
        torch.export.save(export_program(network), archive, extra_files=extra_files)
        archive.replace(part)


def export_program(network: Architecture) -> ExportedProgram:
    """The network as a graph.

    Its input `images` is (B, C, H, W) float32, H and W multiples of the network's stride, at least
    twice it; its outputs are the flows (B, 2, H, W), order (dy, dx), of about unit length; cellprob
    (B, H, W), a logit; and the logits of the cell types (B, T).
    """
    stride, channels = network.stride, network.config.input_channels
    example = torch.zeros(2, channels, 4 * stride, 6 * stride)
    shape: dict[int, Any] = {
        0: Dim("batch"),
        2: stride * Dim("rows"),
        3: stride * Dim("columns"),
    }
    with _quiet():
        return torch.export.export(
            _Program(network).eval(), (example,), dynamic_shapes={INPUT: shape}, strict=False
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
