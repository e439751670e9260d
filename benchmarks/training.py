"""Crops per second of training, ours and cellpose's train_seg, in one run on one machine.

    python benchmarks/training.py --data ../shared/data --peer CP3/bin/python --cores 2

`--peer` is the interpreter of an environment with cellpose 3.x. Both sides learn from the same
images, in crops of one size and batches of one size; ours through `trainer.train_stage`, loader,
targets, EMA of the weights and all, Cellpose through `train_seg`. Ours runs with
the network of the defaults and with one of about Cellpose's size. The sides take turns, each time
in a process of its own; steps that warm up are left out, and so is what comes before the first and
after the last. Each side computes in its own default precision.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cellpose_peer import answer_of, ask, write_images

from flowseg.config.loading import load_config
from flowseg.config.schema import Config
from flowseg.data.detect import read_records
from flowseg.data.record import Record
from flowseg.network.device import pick_device, pick_precision
from flowseg.network.unet import FlowNetwork
from flowseg.training import trainer
from flowseg.training.plan import measure_cells
from flowseg.training.run_folder import TRAINING

PEER_PARAMETERS = 6.6e6


@dataclass(frozen=True)
class Task:
    """What flowseg's process is to do."""

    data: str
    images: int
    steps: int
    warm_up: int
    batch: int
    crop: int
    device: str
    same_size: bool


def some_images(data: Path, count: int, config: Config) -> list[Record]:
    """`count` images, evenly spread over the cell types."""
    records = sorted(
        read_records(data, tuple(config.cell_types)), key=lambda record: record.cell_type
    )
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[place] for place in places]


def parameters_of(config: Config) -> int:
    network = FlowNetwork(config.network, len(config.cell_types))
    return sum(parameter.numel() for parameter in network.parameters())


def of_peers_size(config: Config) -> Config:
    """Cellpose's levels at the full resolution, with the blocks that come nearest to its size."""
    levels = replace(config.network, channels=(32, 64, 128, 256), stem_stride=1)
    choices = [replace(config, network=replace(levels, blocks_per_level=n)) for n in range(1, 9)]
    return min(choices, key=lambda choice: abs(parameters_of(choice) - PEER_PARAMETERS))


def settings(task: Task) -> Config:
    crops = (task.warm_up + task.steps + 1) * task.batch
    overrides = (
        *(f"augment.crop_size={task.crop}", f"training.batch_size={task.batch}"),
        *(f"training.crops_per_epoch={crops}", "training.epochs=1"),
    )
    config = load_config("all", overrides=overrides)
    return of_peers_size(config) if task.same_size else config


def ours(task: Task) -> dict[str, Any]:
    """Seconds of `task.steps` steps of `train_stage` after others that warm it up."""
    config = settings(task)
    device = pick_device(task.device)
    records = some_images(Path(task.data), task.images, config)
    config = replace(config, cell_types=measure_cells(config.cell_types, records))
    stamps: list[float] = []
    step = trainer.Trainer.train_step

    def stamped(*args: Any) -> Any:
        # A step begins once its batch is there, so the wait for the next counts as this one's.
        if device.type == "cuda" and len(stamps) in (task.warm_up, task.warm_up + task.steps):
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        return step(*args)

    trainer.Trainer.train_step = stamped  # type: ignore[method-assign]
    network = FlowNetwork(config.network, len(config.cell_types), config.seed)
    with tempfile.TemporaryDirectory() as folder:
        stage = trainer.Stage(
            folder=Path(folder),
            config=config,
            schedule=config.training,
            training=records,
            validation=[],
            provenance={"stage": TRAINING},
        )
        trainer.train_stage(stage, network, device, resume=False)
    return {
        "seconds": stamps[task.warm_up + task.steps] - stamps[task.warm_up],
        "parameters": parameters_of(config),
        "precision": str(pick_precision(config.training.precision, device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def compare(task: Task, peer: str | None, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The answers of each side, round by round."""
    default = settings(task)
    sides = {"flowseg, default": task}
    if of_peers_size(default) != default:
        sides["flowseg, Cellpose's size"] = replace(task, same_size=True)
    records = some_images(Path(task.data), task.images, default)
    ids = [record.image_id for record in records]
    answers: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_images(records, Path(folder))
        same = {key: getattr(task, key) for key in ("steps", "warm_up", "batch", "crop", "device")}
        for _ in range(rounds):
            for name, own in sides.items():
                command = [sys.executable, __file__, "--side", json.dumps(asdict(own))]
                answers.setdefault(name, []).append(answer_of(command))
            if peer:
                answer = ask(peer, "pace", data=folder, ids=ids, out=folder, **same)
                answers.setdefault("cellpose", []).append(answer)
    return answers


def report(answers: dict[str, list[dict[str, Any]]], crops: int) -> None:
    rates = {name: [crops / a["seconds"] for a in own] for name, own in answers.items()}
    for name, own in answers.items():
        each = ", ".join(f"{rate:.2f}" for rate in rates[name])
        first = own[0]
        print(
            f"{name} ({first['parameters'] / 1e6:.1f} M parameters, {first['precision']},", end=""
        )
        print(f" {first['threads']} threads)")
        print(f"  {statistics.median(rates[name]):.2f} crops/s, the median of {each}")
    peer = rates.pop("cellpose", None)
    for name, own_rates in rates.items() if peer else ():
        ratios = [own / theirs for own, theirs in zip(own_rates, peer, strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"\n{name}: {statistics.median(ratios):.2f} times as fast as train_seg ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the competition's folder")
    parser.add_argument("--peer", help="python with cellpose 3.x; without it ours is timed alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cores", type=int, help="use only so many cores (default: all)")
    parser.add_argument("--images", type=int, default=16, help="learn from so many images")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each side takes")
    parser.add_argument("--batch", type=int, default=8, help="crops a step")
    parser.add_argument("--crop", type=int, default=224, help="pixels of a crop's edge")
    parser.add_argument("--steps", type=int, help="timed in a turn (default: 8, on a GPU 300)")
    parser.add_argument("--warm-up", type=int, help="steps before (default: 3, on a GPU 100)")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(ours(Task(**json.loads(args.side)))))
        return
    if args.data is None:
        parser.error("name the competition's folder with --data")
    slow = args.device == "cpu"
    task = Task(
        data=str(args.data),
        images=args.images,
        steps=args.steps or (8 if slow else 300),
        warm_up=args.warm_up or (3 if slow else 100),
        batch=args.batch,
        crop=args.crop,
        device=args.device,
        same_size=False,
    )
    if args.cores is not None:  # child processes inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    answers = compare(task, args.peer, args.rounds)
    print(f"\n{args.rounds} turns of {task.steps} steps of {task.batch} crops", end="")
    print(f" of {task.crop} px on {task.device}, {len(os.sched_getaffinity(0))} cores\n")
    report(answers, task.steps * task.batch)


if __name__ == "__main__":
    main()
