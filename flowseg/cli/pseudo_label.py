"""Label images with a model, and keep its confident cells to train on."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say
from flowseg.cli.predict import add_images_argument, add_model_arguments
from flowseg.io.paths import find_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_images_argument(parser, required=True)
    parser.add_argument(
        "--out", type=Path, default=Path("pseudo"), help="the folder to make, for train --extra"
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--cell-type",
        help="one of the model's (default: the one that an image's name begins with, else "
        "classified by the model)",
    )
    parser.add_argument(
        "--min-score", type=float, default=0.7, help="smallest score of a confident cell"
    )
    parser.add_argument(
        "--min-share",
        type=float,
        default=0.5,
        help="an image is left out if its confident cells cover less than this share of the "
        "predicted foreground",
    )


def run(args: argparse.Namespace) -> int:
    """Find models and images, label them, and print what was kept."""
    from flowseg.prediction.find_models import find_models
    from flowseg.prediction.pseudo_labels import Limits, pseudo_label, report

    limits = Limits(args.min_score, args.min_share)
    images = find_inputs(args.images, args.data)
    models = find_models(args.model)
    for model in models:
        say(f"model: {model}")
    done = pseudo_label(
        models,
        images,
        args.out,
        cell_type=args.cell_type,
        limits=limits,
        tta=args.tta,
        device=args.device,
    )
    say(report(done))
    say(f"images to train on with --extra: {len(done.kept)}, in {args.out}")
    if done.failed:
        say(f"images that could not be done: {len(done.failed)}")
    return 1 if done.failed else 0
