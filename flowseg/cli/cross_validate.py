"""Train all folds, score every image out of fold, and calibrate the thresholds."""

from __future__ import annotations

import argparse

from flowseg.cli import say
from flowseg.cli.training_options import add_training_arguments, resolve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_training_arguments(parser)
    parser.add_argument("--folds", type=int, metavar="N", help="number of folds (default: 5)")
    job = parser.add_mutually_exclusive_group()
    job.add_argument(
        "--fold",
        type=int,
        metavar="K",
        help="train this fold only, in --out beside the others, which other jobs may train",
    )
    job.add_argument(
        "--gather", action="store_true", help="score and calibrate the folds that jobs have trained"
    )


def run(args: argparse.Namespace) -> int:
    """Train all folds or one, or gather them; print their scores and folder."""
    config, out, arguments = resolve(args, all_folds=True)
    from flowseg.training.cross_validation import cross_validate, gather_folds, train_fold
    from flowseg.training.distributed import distributed_session, is_rank_zero
    from flowseg.training.out_of_fold import report

    with distributed_session(args.device):
        if args.fold is not None:
            fold = train_fold(config, args.data, out, **arguments)
            text = f"fold {args.fold}: validation score {fold.score:.4f}, in {fold.folder}"
        else:
            if args.gather:
                for of_training in ("resume", "tensorboard"):
                    del arguments[of_training]
            work = gather_folds if args.gather else cross_validate
            result = work(config, args.data, out, **arguments)
            text = f"{report(result)}\n{len(result.folds)} folds in {result.folder}"
        if is_rank_zero():
            say(text)
    return 0
