"""Checkpoints: weights as safetensors with a card (JSON) in the same file.

One file is one checkpoint: the card lies in the metadata of the safetensors header, so that
weights and card are never parted and are replaced together. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowseg._version import __version__
from flowseg.config.loading import from_mapping, to_mapping
from flowseg.config.schema import CellTypeSettings, NetworkConfig, NormalizationConfig
from flowseg.errors import FlowsegError, out_of_memory
from flowseg.io.atomic import atomic_path
from flowseg.io.binary import missing
from flowseg.io.paths import PathLike
from flowseg.network.architecture import Architecture
from flowseg.network.build import build_network
from flowseg.network.cellpose_file import (
    CELL_TYPE,
    cellpose_settings,
    is_torch_file,
    provenance_of_cellpose,
    read_cellpose,
)
from flowseg.network.shipped import named_model

FORMAT = 2
"""Version of the checkpoint format; raised when an older flowseg could not read it.

Cards of format 1, of flowseg 0.1.0, are read as well: their networks have a stem of stride 1.
"""

_KEY = "flowseg"


@dataclass(frozen=True)
class Card:
    """The metadata of a checkpoint: architecture, settings of the cell types, provenance."""

    network: NetworkConfig
    """The architecture."""
    cell_types: Mapping[str, CellTypeSettings]
    """In the order of the network's cell-type logits."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where the weights come from: settings, data, score, versions. For people."""
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    """How the intensities of images are scaled."""

    def to_json(self) -> str:
        """The card as JSON text."""
        content = {
            "format": FORMAT,
            "flowseg": __version__,
            "network": to_mapping(self.network),
            "cell_types": {name: to_mapping(cell) for name, cell in self.cell_types.items()},
            "provenance": dict(self.provenance),
        }
        if self.normalization != NormalizationConfig():
            content["normalization"] = to_mapping(self.normalization)
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str | None, file: PathLike) -> Card:
        """Read a card; `file` is named in messages, None is the text of a file without a card."""
        if text is None:
            raise FlowsegError(
                "is a safetensors file without a flowseg card",
                file=file,
                remedy="give a best.safetensors or last.safetensors that flowseg wrote",
            )
        try:
            content = json.loads(text)
            version = content["format"]
            if version not in (1, FORMAT):
                raise FlowsegError(
                    f"is a checkpoint of format {version}, this flowseg {__version__} reads "
                    f"formats up to {FORMAT}",
                    file=file,
                    remedy="use the flowseg that wrote it or a newer one",
                )
            cells = (content.get("cell_types") or content["cells"]).items()  # as 0.1.0 wrote it
            if not cells:
                raise ValueError
            network = dict(content["network"])
            if version == 1:
                network.setdefault("stem_stride", 1)
            return cls(
                network=from_mapping(NetworkConfig, network, file),
                cell_types={
                    name: from_mapping(CellTypeSettings, cell, file) for name, cell in cells
                },
                provenance=dict(content["provenance"]),
                normalization=from_mapping(
                    NormalizationConfig, content.get("normalization", {}), file
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FlowsegError("its card is damaged", file=file) from error


def save_network(path: PathLike, weights: Mapping[str, Tensor], card: Card) -> None:
    """Write the weights of a :class:`Architecture` and their card to one file, atomically."""
    save_tensors(path, weights, card.to_json())


def read_card(path: PathLike) -> Card:
    """The card of a checkpoint, without reading its weights.

    `path` may be the name of a shipped model. Raises FlowsegError if the file is missing, damaged,
    no checkpoint of flowseg, or of a later format.
    """
    path = named_model(path)
    if is_torch_file(path):
        return _load_cellpose(path)[1]
    with _open(path) as file:
        return Card.from_json(_text(file), path)


def load_network(path: PathLike) -> tuple[Architecture, Card]:
    """The network of a checkpoint, in evaluation mode on the CPU, and its card.

    `path` may be the name of a shipped model. Raises FlowsegError if the file is missing, damaged,
    no checkpoint of flowseg, or of a later format.
    """
    path = named_model(path)
    if is_torch_file(path):
        return _load_cellpose(path)
    tensors, text = read_tensors(path)
    card = Card.from_json(text, path)
    with torch.device("meta"):  # shapes without memory: the card may claim what the file lacks
        _check_weights(build_network(card.network, len(card.cell_types)), tensors, path)
    network = build_network(card.network, len(card.cell_types))
    network.load_state_dict(tensors)
    return network.eval(), card


def _load_cellpose(path: PathLike) -> tuple[Architecture, Card]:
    """The network of a checkpoint of Cellpose, and the card that it would have."""
    network, typical = read_cellpose(path)
    provenance = provenance_of_cellpose(path)
    cells = {CELL_TYPE: cellpose_settings(typical)}
    return network, Card(network.config, cells, provenance)


def _check_weights(network: Architecture, tensors: Mapping[str, Tensor], path: PathLike) -> None:
    """Refuse weights that are missing, unexpected, or of another shape."""
    weights = network.state_dict()
    faults = [f"{key}: missing" for key in weights if key not in tensors]
    faults += [f"{key}: unexpected" for key in tensors if key not in weights]
    faults += [
        f"{key}: {tuple(tensors[key].shape)} -> {tuple(value.shape)}"
        for key, value in weights.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise FlowsegError(
            f"its weights do not fit the network: {', '.join(faults[:5])}{more}", file=path
        )


def save_tensors(path: PathLike, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write named tensors and one text to a safetensors file, atomically."""
    # Copies: safetensors refuses tensors that share memory or are not contiguous.
    copies = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        # One key only: safetensors writes several in an order that changes from run to run.
        # Written here and not by safetensors, whose error for a full disk is one of its own.
        temporary.write_bytes(save(copies, {_KEY: text}))


def read_tensors(path: PathLike) -> tuple[dict[str, Tensor], str | None]:
    """The named tensors of a safetensors file and its text, None where it has none of ours."""
    with _open(path) as file:
        try:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, RuntimeError) as error:
            raise out_of_memory(error, path) or FlowsegError(
                f"is damaged: {error}", file=path
            ) from error
        return tensors, _text(file)


def _text(file: Any) -> str | None:
    text = (file.metadata() or {}).get(_KEY)
    return None if text is None else str(text)


def _open(path: PathLike) -> Any:
    if Path(path).is_dir():
        models = sorted(file.name for file in Path(path).glob("*.safetensors"))
        remedy = f"name one, such as {Path(path) / models[0]}" if models else None
        problem = "is a folder" if models else "is a folder without a checkpoint"
        raise FlowsegError(f"{problem}, not a checkpoint", file=path, remedy=remedy)
    if not Path(path).is_file():
        linked = missing(Path(path)) if Path(path).is_symlink() else "there is no such checkpoint"
        raise FlowsegError(linked, file=path)
    try:
        # safetensors says of any file that cannot be opened that it is not there
        Path(path).open("rb").close()
        return safe_open(os.fspath(path), framework="pt", device="cpu")
    except (SafetensorError, OSError, RuntimeError) as error:  # torch opens it a second time
        raise out_of_memory(error, path) or FlowsegError(
            f"is not a checkpoint that can be read: {error}",
            file=path,
            remedy="flowseg reads its own safetensors, and the models of Cellpose 1 to 3",
        ) from error
