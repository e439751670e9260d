"""Train a model on the competition's data, or on your own images and labels."""

from __future__ import annotations

import argparse
import math

from flowseg.cli import cross_validate, say
from flowseg.cli.training_options import add_training_arguments, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_training_arguments(parser)
    parser.add_argument(
        "--fold", type=int, metavar="K", help="the fold held out for validation (default: 0)"
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="number of folds (default: 5); without --fold all are trained, as by cross-validate",
    )
    parser.set_defaults(gather=False)


def run(args: argparse.Namespace) -> int:
    """Train one network, and print its score and folder."""
    if args.folds is not None and args.fold is None:
        return cross_validate.run(args)
    config, out, arguments = resolve(args, all_folds=False)
    from flowseg.training.distributed import distributed_session, is_rank_zero
    from flowseg.training.run import train

    with distributed_session(args.device):
        result = train(config, args.data, out, **arguments)
        if is_rank_zero():
            score = f"validation score {result.score:.4f} (epoch {result.epoch})"
            if math.isnan(result.score):
                score = "trained, without validation"
            say(f"{score}, in {result.folder}")
    return 0
