"""Train a model on the competition's data, or on your own images and labels."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from flowseg.cli import say
from flowseg.config.choices import available_cell_types, available_recipes
from flowseg.config.loading import is_whole, load_config
from flowseg.errors import FlowsegError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="the unzipped competition, or a folder of NAME.tif and NAME_masks.tif",
    )
    parser.add_argument(
        "--cell-type",
        choices=available_cell_types(),
        help="what to train on (default: all; cell for a folder of your own)",
    )
    parser.add_argument(
        "--pretrain",
        default="none",
        metavar="{none,livecell,PATH}",
        help="start from fresh weights, from LIVECell inside the data folder, or from a checkpoint",
    )
    parser.add_argument(
        "--recipe",
        choices=available_recipes(),
        help="which recipe: sizes and schedules that suit it (default: by the device and torchrun)",
    )
    parser.add_argument("--config", type=Path, help="a YAML file of settings that differ")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, such as training.batch_size=4; repeatable",
    )
    parser.add_argument("--epochs", type=int, help="short for --set training.epochs=N")
    parser.add_argument("--fold", type=int, help="the fold kept for validation (default: 0)")
    parser.add_argument(
        "--folds",
        type=int,
        help="the number of folds; without --fold all of them are trained, scored and calibrated",
    )
    parser.add_argument("--seed", type=int, help="of weights and crops")
    parser.add_argument(
        "--train-only",
        type=Path,
        metavar="FILE",
        help="image ids, one a line, that are trained on and never validated on",
    )
    parser.add_argument(
        "--extra",
        metavar="DIR",
        help="more images to train on, never to validate on, as flowseg pseudo-label writes them; "
        "{fold} in it stands for the fold's number",
    )
    parser.add_argument("--extra-weight", type=float, help="crops of these for each other crop")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="write events for TensorBoard as well"
    )
    parser.add_argument("--out", type=Path, help="the run's folder (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")


def run(args: argparse.Namespace) -> int:
    """Resolve the settings and train."""
    short = {
        "training.epochs": args.epochs,
        "data.fold": args.fold,
        "data.folds": args.folds,
        "seed": args.seed,
        "data.extra": None if args.extra is None else json.dumps(args.extra),
        "data.extra_weight": args.extra_weight,
    }
    short = {key: value for key, value in short.items() if value is not None}
    every_fold = args.folds is not None and args.fold is None
    _check(args, short, every_fold)
    if args.config is not None and is_whole(args.config):
        _check_whole(args)
    if every_fold:
        short["data.fold"] = 0  # one that --config names does not matter
    overrides = [*(f"{key}={value}" for key, value in short.items()), *args.set]
    from flowseg.data.detect import detect_layout
    from flowseg.training.cross_validation import cross_validate, report
    from flowseg.training.distributed import distributed_session, is_rank_zero
    from flowseg.training.run import train

    cell_type = args.cell_type or ("cell" if detect_layout(args.data) == "folder" else "all")
    recipe = args.recipe or _default_recipe(args.device)
    config = load_config(cell_type, args.config, overrides, recipe)
    part = f"{config.data.folds}folds" if every_fold else f"fold{config.data.fold}"
    # a whole config knows better than the default what is trained on
    name = next(iter(config.cell_types)) if len(config.cell_types) == 1 else cell_type
    out = args.out or Path("runs") / f"{name}-{part}"
    choices = {
        "pretrain": args.pretrain,
        "train_only": args.train_only,
        "device": args.device,
        "resume": args.resume,
        "tensorboard": args.tensorboard,
    }
    with distributed_session(args.device):
        if every_fold:
            validated = cross_validate(config, args.data, out, **choices)
            text = f"{report(validated)}\n{len(validated.folds)} folds in {validated.folder}"
        else:
            result = train(config, args.data, out, **choices)
            score = f"validation score {result.score:.4f} (epoch {result.epoch})"
            text = f"{score}, in {result.folder}"
        if is_rank_zero():
            say(text)
    return 0


def _check(args: argparse.Namespace, short: Mapping[str, object], every_fold: bool) -> None:
    """Refuse options of which one would be passed over."""
    keys = {text.partition("=")[0] for text in args.set}
    for key in short:
        if key in keys:
            option = key.rpartition(".")[2].replace("_", "-")
            raise FlowsegError(f"--{option} and --set {key} say the same", remedy="leave one out")
    if every_fold and "data.fold" in keys:
        raise FlowsegError(
            "--folds without --fold trains all folds, but --set data.fold names one",
            remedy="name it with --fold",
        )
    if args.extra_weight is not None and args.extra is None and "data.extra" not in keys:
        raise FlowsegError("--extra-weight weighs nothing", remedy="name images with --extra")


def _check_whole(args: argparse.Namespace) -> None:
    """Refuse what a whole config, such as a run's, takes the place of."""
    if args.recipe is not None:
        raise FlowsegError(
            f"names all settings, so --recipe {args.recipe} would change nothing",
            file=args.config,
            remedy="leave one of the two out",
        )
    held = load_config(path=args.config).cell_types
    if args.cell_type is not None and set(held) != set(load_config(args.cell_type).cell_types):
        raise FlowsegError(
            f"names {', '.join(held)}, so --cell-type {args.cell_type} would change nothing",
            file=args.config,
            remedy="leave one of the two out",
        )


def _default_recipe(device: str) -> str:
    """The recipe for what is there."""
    from flowseg.network.device import pick_device
    from flowseg.training.distributed import under_torchrun

    if pick_device(device).type != "cuda":
        return "laptop"
    return "gpus" if under_torchrun() else "gpu"
