"""Check a submission, row by row."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("submission", type=Path, help="the CSV to check")
    parser.add_argument("--images", required=True, metavar="DIR", help="the images it must cover")


def run(args: argparse.Namespace) -> int:
    """Name every problem; the exit code is 1 where there is one."""
    from flowseg.formats.submission import image_shapes, validate_submission

    found = validate_submission(args.submission, image_shapes(args.images))
    for problem in found.problems:
        say(f"{args.submission}: {problem}")
    held = f"{found.n_rows} rows, {found.n_images} images, {found.n_masks} masks"
    if found.problems:
        count = len(found.problems)
        say(f"{args.submission}: not valid, {count} problem{'s' if count > 1 else ''} ({held})")
        return 1
    say(f"{args.submission}: valid ({held})")
    return 0
