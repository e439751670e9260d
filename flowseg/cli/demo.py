"""Draw neurons, train on some images, segment the others, and score the result."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import add_device_argument, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("demo"), help="a new folder"
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        default=42,
        help="random seed of the drawing and the training",
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo, and print where everything is."""
    from flowseg.demo import demo

    result = demo(args.out, args.device, args.seed)
    outputs = result.outputs
    for what, path in (
        ("data, in the competition's layout", result.data),
        ("the trained model and its history", result.run),
        ("the submission", outputs.submission),
        ("label images", outputs.labels),
        ("overlays of the masks", outputs.overlays),
        ("images of flows and cellprob", outputs.fields),
        ("tables of the cells", outputs.cells),
        ("report on the data", result.exploration),
        ("report on the scores", result.report),
    ):
        say(f"{what:<35} {path}")
    say(f"competition score on images not trained on: {result.score:.4f}")
    return 0
