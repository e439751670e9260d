"""Pack a model for a Kaggle notebook without internet: wheels, weights, notebook."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say
from flowseg.cli.submit import add_effort_arguments

_ACCELERATORS = ("t4", "l4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        help="as for predict (default: what finished last in runs/)",
    )
    parser.add_argument("--out", type=Path, default=Path("bundle"), help="the folder to write")
    parser.add_argument(
        "--runtime", default="kaggle-2026-05", help="what the notebook finds installed"
    )
    parser.add_argument("--user", default="USER", help="your name on Kaggle")
    parser.add_argument(
        "--accelerator", choices=_ACCELERATORS, default="t4", help="the machine to ask for"
    )
    add_effort_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the bundle, and print what to do with it."""
    from flowseg.kaggle.bundle import make_bundle
    from flowseg.prediction.find_models import find_models

    models = find_models(args.model)
    options = f"--tta {args.tta}"
    if args.time_budget is not None:
        options += f" --time-budget {round(args.time_budget / 60)}m"
    bundle = make_bundle(
        models,
        args.out,
        runtime=args.runtime,
        user=args.user,
        accelerator=args.accelerator,
        options=options,
    )
    say(f"models: {', '.join(map(str, models))}\nwheels: {', '.join(bundle.wheels)}")
    if args.user == "USER":
        say("put your name on Kaggle in place of USER in the two metadata files, or give --user")
    say(f"kaggle datasets create -p {bundle.dataset}\nkaggle kernels push -p {bundle.kernel}")
    return 0
