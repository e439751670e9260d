"""Options that `train` and `cross-validate` share: declared, checked, and resolved to settings."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowseg.cli import add_device_argument, duration
from flowseg.config.choices import TTA_CHOICES, available_cell_types, available_recipes
from flowseg.errors import FlowsegError

if TYPE_CHECKING:  # pydantic
    from flowseg.config.schema import Config

_log = logging.getLogger(__name__)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the shared options."""
    add_device_argument(parser)
    _add_data_arguments(parser.add_argument_group("data"))
    _add_model_arguments(parser.add_argument_group("training"))
    run = parser.add_argument_group("run")
    run.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the run's folder (default: runs/TYPE-foldK, or runs/TYPE-Nfolds)",
    )
    add_resume_argument(run)
    run.add_argument("--tensorboard", action="store_true", help="also write events for TensorBoard")


def add_resume_argument(parser: argparse._ActionsContainer) -> None:
    """Declare ``--resume`` and ``--resume auto``."""
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        choices=("auto",),
        metavar="auto",
        help="continue the run in --out; with auto, start it where there is none",
    )


def _add_data_arguments(data: argparse._ArgumentGroup) -> None:
    data.add_argument(
        "--data",
        metavar="{DIR,drawn}",
        default="data",
        help="the unzipped competition, or a folder of NAME.tif and NAME_masks.tif; 'drawn': cells "
        "that are drawn on the way (a folder of that name is ./drawn)",
    )
    data.add_argument(
        "--cell-type",
        choices=available_cell_types(),
        help="what to train on (default: all; cell for a folder of your own)",
    )
    data.add_argument(
        "--train-only",
        type=Path,
        metavar="FILE",
        help="image ids, one a line, that are trained on and never validated on",
    )
    data.add_argument(
        "--extra",
        metavar="DIR",
        help="more images to train on, never to validate on, such as pseudo-labels; {fold} in it "
        "stands for the fold's number",
    )
    data.add_argument(
        "--extra-weight",
        type=float,
        metavar="W",
        help="crops of extra images for each crop of the others (default: 0.5)",
    )


def _add_model_arguments(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "--pretrain",
        metavar="{none,livecell,phase,phase+livecell,PATH}",
        help="initial weights: random, pre-trained on the LIVECell in the data folder, or those of "
        "the model that comes with flowseg, a checkpoint or a run's folder (default: phase where "
        "the network is of its architecture, else none)",
    )
    model.add_argument(
        "--recipe",
        choices=available_recipes(),
        help="sizes and schedules for a machine (default: by the device and torchrun)",
    )
    model.add_argument(
        "--config", type=Path, metavar="FILE", help="a YAML file of settings that differ"
    )
    model.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one setting, such as training.batch_size=4; repeatable",
    )
    model.add_argument("--epochs", type=int, metavar="N", help="short for --set training.epochs=N")
    model.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="such as 45m or 1h30m: train for that long, all folds together, by as many epochs as "
        "this machine can do",
    )
    model.add_argument(
        "--seed", type=int, metavar="N", help="random seed of the weights and the crops"
    )
    model.add_argument(
        "--tta",
        type=int,
        choices=TTA_CHOICES,
        help="test-time augmentation of a cross validation's scores; short for --set tta=N",
    )
    model.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network in training and pre-training; needs a C++ compiler",
    )


def resolve(args: argparse.Namespace, *, all_folds: bool) -> tuple[Config, Path, dict[str, Any]]:
    """The settings, the run's folder, and the worker's other arguments.

    Raises FlowsegError if two options contradict each other, or a setting does not fit.
    """
    short = _short_settings(args)
    _check_options(args, short, all_folds)
    if all_folds:
        short.setdefault("data.fold", 0)  # one that --config names does not matter
    overrides = [*(f"{key}={value}" for key, value in short.items()), *args.set]
    from flowseg.config.loading import load_config, to_yaml
    from flowseg.data.detect import detect_layout

    of_layout = {"competition": "all", "livecell": "livecell", "folder": "cell"}
    drawn = args.data == "drawn"
    if drawn and all_folds:
        raise FlowsegError(
            "a cross validation needs labelled images, not drawn ones",
            remedy="name a folder with --data",
        )
    cell_type = args.cell_type or ("cell" if drawn else of_layout[detect_layout(args.data)])
    recipe = args.recipe or default_recipe(args.device)
    config = load_config(cell_type, args.config, overrides, recipe)
    _check_complete_config(args, config)
    _log.debug("settings:\n%s", to_yaml(config))
    part = f"{config.data.folds}folds" if all_folds else f"fold{config.data.fold}"
    # A complete config decides what is trained on, whatever the default.
    name = next(iter(config.cell_types)) if len(config.cell_types) == 1 else cell_type
    name, part = ("drawn", f"seed{config.seed}") if drawn else (name, part)
    arguments = {
        "pretrain": args.pretrain,
        "train_only": args.train_only,
        "device": args.device,
        "resume": args.resume,
        "tensorboard": args.tensorboard,
    }
    return config, args.out or Path("runs") / f"{name}-{part}", arguments


def _short_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that options are short for."""
    settings = {
        "training.epochs": args.epochs,
        "time_budget": args.time_budget,
        "data.fold": args.fold,
        "data.folds": args.folds,
        "seed": args.seed,
        "data.extra": None if args.extra is None else json.dumps(args.extra),
        "data.extra_weight": args.extra_weight,
        "tta": args.tta,
        "training.compile": True if args.compile else None,
        "pretraining.compile": True if args.compile else None,
    }
    return {key: value for key, value in settings.items() if value is not None}


def _check_options(args: argparse.Namespace, short: Mapping[str, Any], all_folds: bool) -> None:
    """Refuse options of which one would be ignored."""
    from flowseg.config.validation import RENAMED

    keys = {text.partition("=")[0].strip() for text in args.set}
    keys |= {
        f"{section}{dot}{RENAMED.get(key, key)}"
        for section, dot, key in (text.rpartition(".") for text in keys)
    }
    for key in short:
        if key in keys:
            option = key.rpartition(".")[2].replace("_", "-")
            raise FlowsegError(f"--{option} and --set {key} say the same", remedy="leave one out")
    if all_folds and "data.fold" in keys:
        raise FlowsegError(
            "a cross validation trains all folds, but --set data.fold names one",
            remedy="train one fold with flowseg train --fold",
        )
    if args.time_budget is not None and (args.epochs is not None or "training.epochs" in keys):
        raise FlowsegError(
            "--time-budget decides the number of epochs", remedy="leave out one of the two"
        )
    if args.extra_weight is not None and args.extra is None and "data.extra" not in keys:
        raise FlowsegError("--extra-weight weighs nothing", remedy="name images with --extra")


def _check_complete_config(args: argparse.Namespace, config: Config) -> None:
    """Refuse what a complete config, such as a run's, takes the place of."""
    from flowseg.config.loading import is_complete, load_config

    ignored = None
    if args.config is not None and is_complete(args.config):
        names = config.cell_types.keys()
        if args.recipe is not None:
            ignored = f"all settings, so --recipe {args.recipe}"
        elif args.cell_type is not None and names != load_config(args.cell_type).cell_types.keys():
            ignored = f"{', '.join(names)}, so --cell-type {args.cell_type}"
    if ignored is not None:
        raise FlowsegError(
            f"names {ignored} would change nothing",
            file=args.config,
            remedy="leave one of the two out",
        )


def default_recipe(device: str) -> str:
    """The recipe of a training on that device that names none."""
    from flowseg.network.device import pick_device
    from flowseg.training.distributed import under_torchrun

    if pick_device(device).type != "cuda":
        return "laptop"
    return "gpus" if under_torchrun() else "gpu"
