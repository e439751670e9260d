"""Check a submission, row by row."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("submission", type=Path, help="the submission, a CSV")
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="the images that it must have rows for"
    )


def run(args: argparse.Namespace) -> int:
    """Print every problem; the exit code is 1 if there is any."""
    from flowseg.formats.submission import image_shapes, validate_submission

    result = validate_submission(args.submission, image_shapes(args.images))
    for problem in result.problems:
        say(f"{args.submission}: {problem}")
    size = f"{result.n_rows} rows, {result.n_images} images, {result.n_masks} masks"
    if result.problems:
        count = len(result.problems)
        say(f"{args.submission}: not valid, {count} problem{'s' if count > 1 else ''} ({size})")
        return 1
    say(f"{args.submission}: valid ({size})")
    return 0
