"""Models to and from the formats of other tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flowseg.errors import FlowsegError
from flowseg.inference.options import known_diameter
from flowseg.io.outputs import claim_outputs
from flowseg.io.paths import PathLike
from flowseg.network.cellpose import CellposeNetwork
from flowseg.network.cellpose_file import is_torch_file, write_cellpose
from flowseg.network.checkpoint import load_network, save_network
from flowseg.network.exported import write_onnx, write_torch_export
from flowseg.prediction.bioimageio import write_bioimageio
from flowseg.training.run_folder import checkpoint_at

FORMATS = ("cellpose", "onnx", "torch-export", "bioimageio")
"""What a model can be exported to."""


def export_model(model: PathLike, format: str, out: PathLike) -> None:
    """Write a checkpoint, or a run's best one, in the format of another tool.

    Parameters
    ----------
    model : path
        A checkpoint or a run's folder.
    format : {"cellpose", "onnx", "torch-export", "bioimageio"}
        A file that Cellpose 3 loads, for networks of kind cellpose; a program for other engines,
        see :func:`flowseg.network.exported.export_program`; or a package of the BioImage Model Zoo.
    out : path
        The file to write.

    Raises
    ------
    FlowsegError
        For another format, a network of another kind, or a file that cannot be read or written.
    """
    if format not in FORMATS:
        raise FlowsegError(f"there is no format {format!r}", remedy=f"choose {', '.join(FORMATS)}")
    path = checkpoint_at(model)
    network, card = load_network(path)
    write = {
        "onnx": write_onnx,
        "torch-export": write_torch_export,
        "bioimageio": write_bioimageio,
    }.get(format)
    if write is not None:
        with claim_outputs([Path(out)], [path]):
            write(out, network, card)
        return
    if not isinstance(network, CellposeNetwork):
        raise FlowsegError(
            "is a network of flowseg's own kind, which Cellpose cannot load",
            file=path,
            remedy="train one that starts from a model of Cellpose (train --pretrain)",
        )
    diameters = [known_diameter(cell) for cell in card.cell_types.values()]
    with claim_outputs([Path(out)], [path]):
        write_cellpose(out, network, sum(diameters) / len(diameters))


def convert_model(
    model: PathLike, out: PathLike, license: str | None = None, *, half: bool = False
) -> None:
    """Write a model of Cellpose 1 to 3 as a checkpoint of flowseg, whose card says what it is.

    `license` is the licence under which its authors give it, as text for the card. With `half`
    weights are stored as float16, which halves the file; a checkpoint of flowseg, or a run's best
    one, can be converted to that as well. Raises FlowsegError as
    :func:`flowseg.network.checkpoint.load_network`, and where there is nothing to convert.
    """
    path = checkpoint_at(model)
    network, card = load_network(path)
    if not (half or is_torch_file(path)):
        raise FlowsegError(
            "is a checkpoint of flowseg already", file=path, remedy="--half halves its size"
        )
    if license is not None or is_torch_file(path):
        provenance = dict(card.provenance) | {"license": license or "not told"}
        card = replace(card, provenance=provenance)
    weights = network.state_dict()
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    with claim_outputs([Path(out)], [path]):
        save_network(out, weights, card)
