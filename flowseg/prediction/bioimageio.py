"""A model as a package of the BioImage Model Zoo: the network as ONNX, and how to use it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowseg.errors import require
from flowseg.flow.representation import flows_to_labels
from flowseg.io.atomic import atomic_path
from flowseg.io.images import write_image
from flowseg.io.paths import PathLike
from flowseg.network.architecture import Architecture
from flowseg.network.checkpoint import Card
from flowseg.network.exported import INPUT, OUTPUTS, export_program, write_onnx
from flowseg.reports.overlay import draw_overlay
from flowseg.synthetic.render import draw_neurons

_SIZE = (256, 384)  # of the test image
_EPSILON = 1e-6  # the specification wants one in the quotient of percentiles

_CITED = "Stringer et al.: Cellpose, a generalist algorithm for cellular segmentation (flow fields)"
_DOI = "10.1038/s41592-020-01018-x"

_DOCUMENTATION = """\
# {name}

Flows and cell probabilities of cells in phase contrast; instances are the pixels whose flows lead
to one sink.
{data}

The input is grey, as stored, and rescaled so that cells have a mean diameter of {diameter:g}
pixels. Labels:

```python
import bioimageio.core, flowseg

output = bioimageio.core.predict(model="{file}", inputs={{"images": image[None, None]}})
flows, cellprob = (output.members[name].data.values[0] for name in ("flows", "cellprob"))
thresholds = {{"flow_threshold": {flow}, "cellprob_threshold": {cellprob}}}
labels = flowseg.flows_to_labels(flows, cellprob, **thresholds)
```

Cell types, in the order of the logits `cell_type`: {cell_types}. flowseg itself measures
diameters, leaves out flat padding when it normalises, and computes large images in tiles.

## Validation

`flowseg evaluate` scores labels against annotated images by the mean over IoU thresholds 0.50 to
0.95 of TP / (TP + FP + FN).
"""


def write_bioimageio(path: PathLike, network: Architecture, card: Card) -> None:
    """Write a package of the BioImage Model Zoo (specification 0.5), a ZIP.

    Its input is the image as stored, (B, C, H, W), H and W multiples of the network's stride;
    normalisation is a step of the package. Its outputs are those of
    :func:`flowseg.network.exported.export_program`. Its test image is drawn.

    Raises FlowsegError where packages of the extra `bioimageio` are missing, or the file cannot be
    written.
    """
    spec = require("bioimageio.spec", "bioimageio")
    require("onnx", "bioimageio")
    path = Path(path)
    with TemporaryDirectory() as folder, atomic_path(path) as part:
        description = _describe(Path(folder), path.name, network, card)
        archive = part.with_name(f"{part.name}.zip")  # a name that the library insists on
        spec.save_bioimageio_package(description, output_path=archive)
        archive.replace(part)


def _describe(folder: Path, file: str, network: Architecture, card: Card) -> Any:
    """The model's description, with its files in the folder."""
    v0_5 = require("bioimageio.spec.model.v0_5", "bioimageio")
    write_onnx(folder / "weights.onnx", network, card)
    image = _test_image(network.config.input_channels)
    outputs = dict(zip(OUTPUTS, _compute(network, _normalised(image, card)), strict=True))
    for name, array in {INPUT: image, **outputs}.items():
        np.save(folder / f"{name}.npy", array)
    cell = next(iter(card.cell_types.values()))
    labels = flows_to_labels(
        outputs["flows"][0],
        outputs["cellprob"][0],
        flow_threshold=cell.flow_threshold,
        cellprob_threshold=cell.cellprob_threshold,
    )
    write_image(folder / "cover.png", draw_overlay(_normalised(image, card)[0, 0], labels))
    name = f"flowseg {' '.join(card.cell_types)}"
    data = card.provenance.get("data")
    (folder / "README.md").write_text(
        _DOCUMENTATION.format(
            name=name,
            file=file,
            data="It has learned from drawn images alone." if data == "drawn" else "",
            diameter=network.config.target_diameter,
            flow=cell.flow_threshold,
            cellprob=cell.cellprob_threshold,
            cell_types=", ".join(card.cell_types),
        ),
        encoding="utf-8",
    )
    license = card.provenance.get("license")
    return v0_5.ModelDescr(
        name=name,
        description="Flow fields and cell probabilities of cells in phase contrast",
        authors=[v0_5.Author(name="The flowseg developers")],
        cite=[v0_5.CiteEntry(text=_CITED, doi=_DOI)],
        license=license,
        documentation=v0_5.FileDescr(source=folder / "README.md"),
        covers=[v0_5.FileDescr(source=folder / "cover.png")],
        tags=["instance-segmentation", "phase-contrast", "cells", "2d"],
        inputs=[_input(v0_5, folder, network, card)],
        outputs=[_output(v0_5, folder, name, card) for name in OUTPUTS],
        weights=v0_5.WeightsDescr(
            onnx=v0_5.OnnxWeightsDescr(source=folder / "weights.onnx", opset_version=_opset(folder))
        ),
    )


def _input(v0_5: Any, folder: Path, network: Architecture, card: Card) -> Any:
    size = v0_5.ParameterizedSize(min=2 * network.stride, step=network.stride)
    names = ["cells", "nuclei"][: network.config.input_channels]
    how = card.normalization
    if how.range is not None:
        low, high = how.range
        gain = 1 / (high - low)
        step = v0_5.ScaleLinearDescr(kwargs=v0_5.ScaleLinearKwargs(gain=gain, offset=-low * gain))
    else:
        low, high = how.percentiles
        step = v0_5.ScaleRangeDescr(
            kwargs=v0_5.ScaleRangeKwargs(
                axes=["y", "x"], min_percentile=low, max_percentile=high, eps=_EPSILON
            )
        )
    return v0_5.InputTensorDescr(
        id=INPUT,
        description="grey, as stored, cells of the documented diameter",
        axes=[
            v0_5.BatchAxis(),
            v0_5.ChannelAxis(channel_names=names),
            v0_5.SpaceInputAxis(id="y", size=size),
            v0_5.SpaceInputAxis(id="x", size=size),
        ],
        test_tensor=v0_5.FileDescr(source=folder / f"{INPUT}.npy"),
        data=v0_5.IntervalOrRatioDataDescr(type="float32"),
        preprocessing=[step],
    )


def _output(v0_5: Any, folder: Path, name: str, card: Card) -> Any:
    space = [
        v0_5.SpaceOutputAxis(id=axis, size=v0_5.SizeReference(tensor_id=INPUT, axis_id=axis))
        for axis in "yx"
    ]
    axes = {
        "flows": [v0_5.ChannelAxis(channel_names=["dy", "dx"]), *space],
        "cellprob": space,
        "cell_type": [v0_5.ChannelAxis(channel_names=list(card.cell_types))],
    }[name]
    described = {
        "flows": "towards the sink of each cell, of about unit length",
        "cellprob": "logit of being in a cell",
        "cell_type": "logits",
    }
    return v0_5.OutputTensorDescr(
        id=name,
        description=described[name],
        axes=[v0_5.BatchAxis(), *axes],
        test_tensor=v0_5.FileDescr(source=folder / f"{name}.npy"),
    )


def _test_image(channels: int) -> NDArray[np.float32]:
    """Drawn neurons, one image a channel: (1, C, H, W)."""
    drawn = [draw_neurons(_SIZE, "astro", np.random.default_rng(k))[0] for k in range(channels)]
    return np.stack(drawn)[None].astype(np.float32)


def _normalised(image: NDArray[np.float32], card: Card) -> NDArray[np.float32]:
    """The image as the package's step leaves it, which knows no padding."""
    how = card.normalization
    if how.range is not None:
        span = np.asarray(how.range, np.float32)
    else:
        span = np.percentile(image, how.percentiles, axis=(2, 3), keepdims=True)
        span[1] += _EPSILON
    normalised: NDArray[np.float32] = ((image - span[0]) / (span[1] - span[0])).astype(np.float32)
    return normalised


def _compute(network: Architecture, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        return [part.numpy() for part in export_program(network).module()(torch.from_numpy(images))]


def _opset(folder: Path) -> int:
    model = require("onnx", "bioimageio").load(folder / "weights.onnx")
    return int(next(item.version for item in model.opset_import if not item.domain))
