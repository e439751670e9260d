"""Find the cells of images and write a submission."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say
from flowseg.cli.export import add_folder_arguments
from flowseg.config.choices import TTA_CHOICES

__all__ = ["add_arguments", "add_model_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--in",
        dest="images",
        nargs="+",
        metavar="IMAGES",
        help="folders, files or quoted globs; a relative one that is not here is also looked "
        "for in the data folder",
    )
    what.add_argument(
        "--join", action="store_true", help="join the files of all shards into the CSV of --out"
    )
    parser.add_argument("--out", type=Path, default=Path("submission.csv"), help="the CSV to write")
    add_model_arguments(parser)
    parser.add_argument("--cell-type", help="one of the model's (default: named by the model)")
    parser.add_argument(
        "--diameter", type=_diameter, help="mean cell diameter in pixels; auto measures it"
    )
    parser.add_argument("--cellprob-threshold", type=float, help="pixels above it are in cells")
    parser.add_argument("--flow-threshold", type=float, help="largest flow error; 0 keeps all")
    parser.add_argument("--min-size", type=int, help="smallest cell, in pixels")
    parser.add_argument("--save-labels", type=Path, metavar="DIR", help="write label images here")
    parser.add_argument(
        "--labels-format",
        choices=("tiff", "zarr"),
        default="tiff",
        help="what --save-labels writes: TIFF, or Zarr arrays (needs zarr)",
    )
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="write pictures here")
    parser.add_argument(
        "--disagreement",
        type=Path,
        metavar="DIR",
        help="write pictures of where models and views disagree here",
    )
    parser.add_argument(
        "--fields", type=Path, metavar="DIR", help="write pictures of flows and cellprob here"
    )
    add_folder_arguments(parser)
    parser.add_argument(
        "--cells",
        type=Path,
        metavar="DIR",
        help="write NAME_cells.csv (area, place, shape, cellprob, score of each cell) here",
    )
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="do the K-th of N parts only (default: torchrun's, where it is used)",
    )
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="compute whole slides on a Dask cluster: that of a scheduler such as "
        "tcp://host:8786, or without an address one on this machine (needs dask)",
    )
    parser.add_argument("--compile", action="store_true", help="let torch.compile speed it up")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which models look at images, how often, and on which device."""
    parser.add_argument("--data", type=Path, default=Path("data"), help="the data folder")
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        help="a checkpoint, a run's folder or a folder of runs; several are averaged (default: "
        "what finished last below runs/)",
    )
    parser.add_argument(
        "--tta",
        type=int,
        choices=TTA_CHOICES,
        default=1,
        help="turned and mirrored views of each image that are averaged; as many times slower",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, mps, or one of several as in cuda:1"
    )


def _diameter(text: str) -> float | str:
    return text if text == "auto" else float(text)


def run(args: argparse.Namespace) -> int:
    """Choose the models and the images, predict, and say where the result lies."""
    from flowseg.inference.options import SegmentOptions
    from flowseg.network.device import local_device
    from flowseg.prediction.find_models import find_inputs, find_models
    from flowseg.prediction.predict import Machines, Outputs, predict
    from flowseg.prediction.shards import Shard, join_shards

    if args.join:
        shards, cells = join_shards(args.out)
        say(f"{cells} cells of {shards} shards: {args.out}")
        return 0
    images = find_inputs(args.images, args.data)
    models = find_models(args.model)
    for model in models:
        say(f"model: {model}")
    shard = Shard.parse(args.shard) if args.shard else Shard.from_environment()
    outputs = Outputs(
        args.out,
        args.save_labels,
        args.overlays,
        args.disagreement,
        args.rois,
        args.seg_npy,
        args.label_tiff,
        args.cells,
        args.fields,
        args.labels_format,
    )
    done = predict(
        models,
        images,
        outputs,
        device=local_device(args.device),
        options=SegmentOptions(
            cell_type=args.cell_type,
            diameter=args.diameter,
            cellprob_threshold=args.cellprob_threshold,
            flow_threshold=args.flow_threshold,
            min_size=args.min_size,
            disagreement=args.disagreement is not None,
        ),
        tta=args.tta,
        compile=args.compile,
        machines=Machines(shard, args.dask),
    )
    say(f"{done.cells} cells in {done.images} images: {done.submission}")
    if done.failed:
        say(f"images that could not be done, without a row: {len(done.failed)}")
    # torchrun ends all processes where one of them fails, so a bad image must not look like that.
    under_torchrun = shard is not None and not args.shard
    return 1 if done.failed and not under_torchrun else 0
