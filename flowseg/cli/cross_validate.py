"""Train all folds, score every image out of fold, and calibrate the thresholds."""

from __future__ import annotations

import argparse

from flowseg.cli import say
from flowseg.cli.training_options import add_training_arguments, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_training_arguments(parser)
    parser.add_argument("--folds", type=int, metavar="N", help="number of folds (default: 5)")
    parser.set_defaults(fold=None)


def run(args: argparse.Namespace) -> int:
    """Train all folds, and print their scores and folder."""
    config, out, arguments = resolve(args, all_folds=True)
    from flowseg.training.cross_validation import cross_validate, report
    from flowseg.training.distributed import distributed_session, is_rank_zero

    with distributed_session(args.device):
        result = cross_validate(config, args.data, out, **arguments)
        if is_rank_zero():
            say(f"{report(result)}\n{len(result.folds)} folds in {result.folder}")
    return 0
