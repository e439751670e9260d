"""Find the cells of images and write a submission."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowseg.cli import add_device_argument, duration, say
from flowseg.cli.export import add_output_arguments, parse_outputs
from flowseg.config.choices import TTA_CHOICES
from flowseg.errors import FlowsegError

if TYPE_CHECKING:  # torch
    from flowseg.inference.options import SegmentOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    add_images_argument(source)
    source.add_argument(
        "--join", action="store_true", help="join the files of all shards into the CSV of --out"
    )
    parser.add_argument(
        "--out",
        dest="submission",
        type=Path,
        default=Path("submission.csv"),
        metavar="FILE",
        help="the CSV to write",
    )
    add_model_arguments(parser)
    _add_segment_arguments(parser)
    add_output_arguments(parser, predicting=True)
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="predict the K-th of N parts only (default: this process's under torchrun)",
    )
    parser.add_argument(
        "--dask",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="compute on the workers of a Dask cluster: that of a scheduler such as "
        "tcp://host:8786, or without an address one on this machine (needs dask)",
    )
    parser.add_argument(
        "--cellpose-tiles",
        action="store_true",
        help="a model of Cellpose: compute that program's tiles, for its own flow field",
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks first")
    parser.add_argument(
        "--blank-failed",
        action="store_true",
        help="give an image that cannot be read a row with nothing, and end with exit code 0",
    )
    parser.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="such as 8h: measure some images first, and lower test-time augmentation, then the "
        "ensemble, as far as all need to be done in that time",
    )


def _add_segment_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how images are read, and what of them is a cell."""
    parser.add_argument("--cell-type", help="one of the model's (default: classified by the model)")
    parser.add_argument(
        "--diameter", type=_diameter, help="mean cell diameter in pixels; auto estimates it"
    )
    parser.add_argument(
        "--cellprob-threshold", type=float, help="logit above which a pixel is in a cell"
    )
    parser.add_argument("--flow-threshold", type=float, help="largest flow error; 0 keeps all")
    parser.add_argument("--min-size", type=int, help="smallest cell, in pixels")
    parser.add_argument(
        "--recursive",
        action="store_true",
        help="look into folders within folders; where names repeat, as in wells, they keep their "
        "folders: A1_s1",
    )
    parser.add_argument(
        "--channel", help="of files with several channels the only one, from 0 or by its name"
    )
    parser.add_argument(
        "--nucleus-channel",
        help="the same of the nuclei, for a model of Cellpose that was trained with them",
    )


def add_images_argument(parser: argparse._ActionsContainer, *, required: bool = False) -> None:
    """Declare the images to predict on."""
    parser.add_argument(
        "--in",
        dest="images",
        nargs="+",
        required=required,
        metavar="IMAGES",
        help="folders, files or quoted globs; a relative one that is not here is also looked "
        "for in the data folder",
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the models, test-time augmentation and the device."""
    parser.add_argument("--data", type=Path, default=Path("data"), help="the data folder")
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        help="a checkpoint, a run's folder or a folder of runs; several are averaged (default: "
        "what finished last in runs/)",
    )
    parser.add_argument(
        "--tta",
        type=int,
        choices=TTA_CHOICES,
        default=1,
        help="test-time augmentation: rotated and flipped views that are averaged; as many times "
        "slower",
    )
    add_device_argument(parser)


def _diameter(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither pixels nor auto") from error


def _segment_options(args: argparse.Namespace) -> SegmentOptions:
    from flowseg.inference.options import SegmentOptions

    return SegmentOptions(
        cell_type=args.cell_type,
        diameter=args.diameter,
        cellprob_threshold=args.cellprob_threshold,
        flow_threshold=args.flow_threshold,
        min_size=args.min_size,
        channel=args.channel,
        nucleus_channel=args.nucleus_channel,
        exclude_border=args.exclude_border,
        cellpose_tiles=args.cellpose_tiles,
    )


def run(args: argparse.Namespace) -> int:
    """Find models and images, predict, and print the result."""
    from flowseg.io.paths import find_inputs
    from flowseg.network.device import local_device
    from flowseg.prediction.find_models import find_models
    from flowseg.prediction.predict import Distribution, predict
    from flowseg.prediction.shards import Shard, join_shards
    from flowseg.prediction.timing import within_time_budget

    if args.join:
        shards, cells = join_shards(args.submission)
        say(f"{cells} cells of {shards} shards: {args.submission}")
        return 0
    images = find_inputs(args.images, args.data, recursive=args.recursive)
    models = find_models(args.model)
    for model in models:
        say(f"model: {model}")
    shard = Shard.parse(args.shard) if args.shard else Shard.from_environment()
    device = local_device(args.device)
    options = _segment_options(args)
    if args.time_budget is not None and shard is not None:
        raise FlowsegError(
            "a time budget is for a whole prediction, and a shard would choose by itself",
            remedy="choose --tta and --model for all shards",
        )
    if args.time_budget is not None and args.dask is not None:
        raise FlowsegError(
            "a time budget measures this machine, not a cluster", remedy="choose --tta and --model"
        )
    with within_time_budget(
        models,
        images,
        args.submission,
        args.time_budget,
        tta=args.tta,
        device=device,
        options=options,
    ) as (models, tta):
        done = predict(
            models,
            images,
            replace(parse_outputs(args), blank_failed=args.blank_failed),
            device=device,
            options=options,
            tta=tta,
            compile=args.compile,
            distribution=Distribution(shard, args.dask),
        )
    say(f"{done.cells} cells in {done.images} images: {done.submission}")
    if done.failed:
        row = "with a blank row" if args.blank_failed else "without a row"
        say(f"images that failed, {row}: {len(done.failed)}")
    # torchrun ends all processes if one of them fails, which a bad image is no reason for.
    under_torchrun = shard is not None and not args.shard
    return 1 if done.failed and not under_torchrun and not args.blank_failed else 0
