"""Describe a checkpoint, or the state of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "path", type=Path, metavar="RUN_OR_MODEL", help="a run's folder or a checkpoint"
    )


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    from flowseg.training.describe import describe

    say(describe(args.path))
    return 0
