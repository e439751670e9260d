"""Checkpoints of Cellpose 1 to 3: read as they are, and told from files that look like them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.errors import FlowsegError, out_of_memory
from flowseg.io.atomic import atomic_path
from flowseg.io.paths import PathLike, sha256_of
from flowseg.network.cellpose import CellposeNetwork, cellpose_name

CELL_TYPE = "cell"
"""The one cell type of Cellpose's models."""

_TORCH = (b"PK\x03\x04", b"\x80")  # how torch.save writes files, today and before 1.6
_NUCLEI, _CELLS = 17.0, 30.0  # what Cellpose takes where an older file has no diameter
_ANCHOR = "downsample.down.res_down_0.conv.conv_0.2.weight"
_HEADS = {"tasker.base_bn.": "output.0.", "tasker.base_conv.": "output.2."}  # scellseg's names
_LARGEST = 8192  # channels
_REMEDY = "give a U-Net of Cellpose 1, 2 or 3, such as cyto3 or one that train_seg saved"


def is_torch_file(path: PathLike) -> bool:
    """Whether a file begins as torch.save writes it."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    # A safetensors file begins with the length of its header, whose bytes may be any.
    return start.startswith(_TORCH) and start[8:] != b"{"


def read_cellpose(path: PathLike) -> tuple[CellposeNetwork, float]:
    """The network of a Cellpose checkpoint, and a diameter in pixels.

    Weights are read without executing anything. Prefixes of all names, as DataParallel and other
    packages add them, are dropped; number types become float32.

    Returns
    -------
    network : CellposeNetwork
        In evaluation mode on the CPU; its target diameter is the file's `diam_mean`.
    typical : float
        The mean diameter in the images that it was trained on (`diam_labels`). An older file has
        neither: 30 pixels, or 17 where its name says "nuclei", as Cellpose takes them.

    Raises
    ------
    FlowsegError
        If the file is damaged, or no U-Net of Cellpose: the message says what it is.
    """
    path = Path(path)
    weights = _without_prefix(_load(path), path)
    default = _NUCLEI if "nuclei" in path.name.lower() else _CELLS
    target = _diameter(weights, "diam_mean", default)
    network = _empty_network(weights, target, path)
    named = {name: weights.get(cellpose_name(name)) for name in network.state_dict()}
    missing = [cellpose_name(name) for name, value in named.items() if value is None]
    # A counter of batches that nothing reads; the oldest files lack it.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise FlowsegError(
            f"lacks weights of Cellpose's U-Net, first {missing[0]}", file=path, remedy=_REMEDY
        )
    known = {*map(cellpose_name, named), "diam_mean", "diam_labels"}
    if more := [name for name in weights if name not in known]:
        raise FlowsegError(
            f"has {len(more)} weights that Cellpose's U-Net has not, first {more[0]}: it is "
            "another network",
            file=path,
            remedy=_REMEDY,
        )
    try:
        network.load_state_dict({k: v for k, v in named.items() if v is not None}, strict=False)
    except RuntimeError as error:
        raise FlowsegError(
            "has weights of other shapes than Cellpose's U-Net", file=path, remedy=_REMEDY
        ) from error
    return network.eval(), _diameter(weights, "diam_labels", target)


def write_cellpose(path: PathLike, network: CellposeNetwork, typical: float) -> None:
    """Write a network as Cellpose 3 saves its own, atomically.

    `typical` is the mean diameter of the images that it was trained on, in pixels.
    """
    weights = {cellpose_name(name): value.cpu() for name, value in network.state_dict().items()}
    weights["diam_mean"] = torch.tensor([network.config.target_diameter])
    weights["diam_labels"] = torch.tensor([typical])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(weights, file)


def cellpose_settings(diameter: float) -> CellTypeSettings:
    """The thresholds that Cellpose 3 has by default."""
    return CellTypeSettings(
        diameter=diameter, cellprob_threshold=0.0, flow_threshold=0.4, min_size=15
    )


def provenance_of_cellpose(path: PathLike) -> dict[str, Any]:
    """Where the weights come from, for a card."""
    return {"source": "Cellpose", "file": Path(path).name, "sha256": sha256_of(Path(path))}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        # By its name torch might take it for something else; of other pickles it warns first.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FlowsegError(
            "holds more than weights, and nothing of it is executed", file=path, remedy=_REMEDY
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, zipfile.BadZipFile) as error:
        raise out_of_memory(error, path) or FlowsegError(
            "is damaged or cut off: it is no file that torch can read", file=path, remedy=_REMEDY
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise FlowsegError("holds no weights of a network", file=path, remedy=_REMEDY)
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return {name: v.float() if v.is_floating_point() else v for name, v in tensors.items()}


def _without_prefix(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights by Cellpose's names; a file that is something else is refused by name."""
    _refuse_others(weights, path)
    anchor = next((name for name in weights if name.endswith(_ANCHOR)), None)
    if anchor is None:
        raise FlowsegError("is no model of Cellpose", file=path, remedy=_REMEDY)
    prefix = anchor.removesuffix(_ANCHOR)
    found = {}
    for name, value in weights.items():
        head = next((head for head in _HEADS if name.startswith(head)), None)
        if head is not None:
            found[_HEADS[head] + name.removeprefix(head)] = value
        else:
            found[name.removeprefix(prefix)] = value
    return found


def _refuse_others(weights: Mapping[str, Tensor], path: Path) -> None:
    names = " ".join(weights)
    kinds = {
        "a Cellpose-SAM model, of Cellpose 4": "W2" in weights or "encoder.blocks.0" in names,
        "a transformer (SegFormer) of Cellpose 3": "segformer" in names or "encoder.patch" in names,
    }
    kernel = next((value for name, value in weights.items() if name.endswith(_ANCHOR)), None)
    if kernel is not None:
        output = next((v for k, v in weights.items() if k.endswith("output.2.weight")), None)
        maps = 3 if output is None else output.shape[0]
        kinds["a model of Cellpose for volumes (3D convolutions)"] = kernel.ndim == 5
        kinds[f"a network of {maps} output maps, such as Cellpose's for image restoration"] = (
            maps != 3
        )
    for kind, found in kinds.items():
        if found:
            raise FlowsegError(f"is {kind}, which is not supported", file=path, remedy=_REMEDY)


def _empty_network(weights: Mapping[str, Tensor], target: float, path: Path) -> CellposeNetwork:
    """A network of the sizes that the weights have."""
    widths: list[int] = []
    while True:
        kernel = weights.get(f"downsample.down.res_down_{len(widths)}.conv.conv_0.2.weight")
        if kernel is None:
            break
        widths.append(int(kernel.shape[0]))
    inputs = int(weights[_ANCHOR].shape[1])
    if not 2 <= len(widths) <= 8 or max(widths) > _LARGEST or not 1 <= inputs <= 16:
        raise FlowsegError("is no model of Cellpose of a size that is known", file=path)
    style = weights.get("upsample.up.res_up_0.conv.conv_1.full.weight")
    if style is None:
        raise FlowsegError(
            "is a model of Cellpose without style or residual blocks, which is not supported",
            file=path,
            remedy=_REMEDY,
        )
    config = NetworkConfig(
        kind="cellpose",
        input_channels=inputs,
        channels=tuple(widths),
        stem_stride=1,
        target_diameter=target,
    )
    return CellposeNetwork(config, 1)


def _diameter(weights: Mapping[str, Tensor], name: str, default: float) -> float:
    value = weights.get(name)
    found = float(value.reshape(-1)[0]) if value is not None and value.numel() else default
    return found if 0 < found < 1e4 else default
