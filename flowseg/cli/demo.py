"""Draw neurons, train on some, find the others, and score what was found."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="a new folder")
    parser.add_argument("--seed", type=int, default=42, help="of the drawing and the training")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where everything lies."""
    from flowseg.demo import demo

    result = demo(args.out, args.device, args.seed)
    outputs = result.outputs
    for what, place in (
        ("data, in the competition's layout", result.data),
        ("the trained model and its history", result.run),
        ("the submission", outputs.submission),
        ("label images", outputs.labels),
        ("pictures of what was found", outputs.overlays),
        ("pictures of flows and cellprob", outputs.fields),
        ("tables of the cells", outputs.cells),
        ("a page on the data", result.exploration),
        ("a page on the score", result.report),
    ):
        say(f"{what:<35} {place}")
    say(f"competition score on images not trained on: {result.score:.4f}")
    return 0
