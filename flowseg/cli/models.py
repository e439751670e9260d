"""List the models that come with flowseg."""

from __future__ import annotations

import argparse

from flowseg.cli import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options: none."""


def run(_: argparse.Namespace) -> int:
    """Print the names and what their cards say."""
    from flowseg.network.shipped import shipped_models
    from flowseg.training.describe import describe

    for name, path in shipped_models().items():
        say(f"{name}\n\n{describe(path)}")
    return 0
