"""Find the cells of images and write a submission."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--in",
        dest="images",
        required=True,
        nargs="+",
        metavar="IMAGES",
        help="folders, files or quoted globs; a relative one that is not here is also looked "
        "for in the data folder",
    )
    parser.add_argument("--out", type=Path, default=Path("submission.csv"), help="the CSV to write")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the data folder")
    parser.add_argument(
        "--model", type=Path, help="a checkpoint or a run's folder (default: the newest run)"
    )
    parser.add_argument("--cell-type", help="one of the model's (default: named by the model)")
    parser.add_argument("--diameter", type=float, help="mean cell diameter in pixels")
    parser.add_argument("--cellprob-threshold", type=float, help="pixels above it are in cells")
    parser.add_argument("--flow-threshold", type=float, help="largest flow error; 0 keeps all")
    parser.add_argument("--min-size", type=int, help="smallest cell, in pixels")
    parser.add_argument("--save-labels", type=Path, metavar="DIR", help="write label TIFFs here")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="write pictures here")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Choose the model and the images, predict, and say where the result lies."""
    from flowseg.export.predict import Outputs, find_inputs, find_model, predict

    images = find_inputs(args.images, args.data)
    model = find_model(args.model)
    say(f"model: {model}")
    overrides = {
        "cell_type": args.cell_type,
        "diameter": args.diameter,
        "cellprob_threshold": args.cellprob_threshold,
        "flow_threshold": args.flow_threshold,
        "min_size": args.min_size,
    }
    outputs = Outputs(args.out, args.save_labels, args.overlays)
    cells = predict(model, images, outputs, device=args.device, overrides=overrides)
    say(f"{cells} cells in {len(images)} images: {args.out}")
    return 0
