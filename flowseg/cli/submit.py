"""In a notebook without internet: predict the competition's test images with a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import add_device_argument, duration, say
from flowseg.config.choices import TTA_CHOICES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="the data set of flowseg bundle"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the CSV (default: ROOT/working/submission.csv)"
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/kaggle"), help="the folder with input/ and working/"
    )
    add_effort_arguments(parser)
    add_device_argument(parser)


def add_effort_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how much is computed for each image."""
    parser.add_argument(
        "--tta", type=int, choices=TTA_CHOICES, default=4, help="test-time augmentation"
    )
    parser.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="such as 8h: where all images would take longer, test-time augmentation is lowered, "
        "then the ensemble",
    )


def run(args: argparse.Namespace) -> int:
    """Predict, and print what is in the submission."""
    from flowseg.kaggle.submit import submit

    out = args.out or args.root / "working" / "submission.csv"
    done = submit(
        args.bundle,
        out,
        root=args.root,
        tta=args.tta,
        time_budget=args.time_budget,
        device=args.device,
    )
    blank = f", blank: {', '.join(done.blank)}" if done.blank else ""
    say(f"{done.cells} cells in {done.images} images{blank}: {out}")
    return 0
