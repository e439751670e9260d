"""Write a model of Cellpose 1 to 3 as a checkpoint of flowseg, or halve a checkpoint's size."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="such as cyto3; or a run's folder"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the checkpoint: NAME.safetensors"
    )
    parser.add_argument(
        "--license", metavar="TEXT", help="under which its authors give it, for the card"
    )
    parser.add_argument("--half", action="store_true", help="store the weights as float16")


def run(args: argparse.Namespace) -> int:
    """Convert and say where it is."""
    from flowseg.prediction.convert import convert_model

    convert_model(args.model, args.out, args.license, half=args.half)
    say(f"{args.model.name}: {args.out}")
    return 0
