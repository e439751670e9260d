"""Describe a checkpoint, the state of a run, or what this machine can do."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say
from flowseg.cli.training_options import default_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "path", type=Path, nargs="?", metavar="RUN_OR_MODEL", help="a run's folder or a checkpoint"
    )
    what.add_argument(
        "--device",
        nargs="?",
        const="auto",
        metavar="DEVICE",
        help="describe this machine, and try it for some ten seconds: auto (if none is named), "
        "cpu, cuda, cuda:1, mps",
    )


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    if args.device is None:
        from flowseg.training.describe import describe

        say(describe(args.path))
        return 0
    from flowseg.config.loading import load_config
    from flowseg.training.machine import describe_machine

    config = load_config("all", recipe=default_recipe(args.device))
    say(describe_machine(config, args.device))
    return 0
