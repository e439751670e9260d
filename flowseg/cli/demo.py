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
    say(f"data, in the competition's layout   {result.data}")
    say(f"the trained model and its history   {result.run}")
    say(f"the submission                      {result.submission}")
    say(f"label images                        {result.labels}")
    say(f"pictures of what was found          {result.overlays}")
    say(f"competition score on {'images not trained on':<22} {result.score:.4f}")
    return 0
