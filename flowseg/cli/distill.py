"""Train one network to see what an ensemble sees, at the speed of one."""

from __future__ import annotations

import argparse
from pathlib import Path

from flowseg.cli import say
from flowseg.cli.predict import add_images_argument, add_model_arguments
from flowseg.cli.training_options import add_resume_argument, default_recipe
from flowseg.config.choices import available_recipes
from flowseg.io.paths import find_inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_images_argument(parser, required=True)
    add_model_arguments(parser)
    parser.set_defaults(tta=4)
    parser.add_argument("--out", type=Path, default=Path("runs/student"), help="the run's folder")
    parser.add_argument("--recipe", choices=available_recipes(), help="as for train")
    parser.add_argument("--config", type=Path, metavar="FILE", help="as for train")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as for train"
    )
    add_resume_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Find models and images, train the student, and print where it is."""
    from flowseg.config.loading import load_config
    from flowseg.prediction.distill import distill
    from flowseg.prediction.find_models import find_models

    config = load_config(None, args.config, args.set, args.recipe or default_recipe(args.device))
    models = find_models(args.model)
    for model in models:
        say(f"teacher: {model}")
    images = find_inputs(args.images, args.data)
    result = distill(
        models, images, args.out, config, tta=args.tta, device=args.device, resume=args.resume
    )
    say(f"student: {result.checkpoint}")
    return 0
