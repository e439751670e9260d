"""Score against the number of labelled images: flowseg from its model and from nothing, Cellpose 3.

    python benchmarks/few_images.py --data ../shared/data --out runs/few --images 1 3 8 16 \\
        --draws 3 --start phase none --peer CP3/bin/python --peer-start none GENERALIST

The data are split in two halves by wells; of one half so many images are drawn by seed, the cell
types in turn, and both sides learn from them, on as many crops of the same size; the other half is
scored, at default thresholds, each image told its cell type or diameter. `--start` and
`--peer-start` name what each begins with: none, a model's name or file. Without images (0) the
model is scored as it is. Each result stays in `--out`, so that the same command goes on where it
was stopped; `curve.csv` and `curve.png` there hold the mean over the draws.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accuracy import Peer, Run
from cellpose_peer import write_images
from dynamics import table

from flowseg.config.loading import load_config
from flowseg.data.record import Record
from flowseg.inference.segmenter import Segmenter
from flowseg.io.atomic import atomic_path, ensure_writable_folder, write_text
from flowseg.io.tables import write_table
from flowseg.metrics.competition import competition_score
from flowseg.network.device import pick_device
from flowseg.training.plan import Plan, plan_folds
from flowseg.training.run import train_plan

EPOCH = 640  # crops
NONE = "none"


Scores = dict[str, list[float]]
"""By cell type."""


def draw(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """So many of the records, the cell types in turn; a larger draw holds the smaller ones."""
    rng = np.random.default_rng(seed)
    by_type = defaultdict(list)
    for record in sorted(records, key=lambda record: record.image_id):
        by_type[record.cell_type].append(record)
    queues = [
        [items[i] for i in rng.permutation(len(items))] for _, items in sorted(by_type.items())
    ]
    order = [queues[i] for i in rng.permutation(len(queues))]
    turns = [queue[turn] for turn in range(len(records)) for queue in order if turn < len(queue)]
    return turns[:count]


def score_ours(
    plan: Plan, start: str, chosen: list[Record], folder: Path, args: argparse.Namespace
) -> Scores:
    """Scores by cell type of what flowseg learns from the chosen images."""
    if chosen:
        plan = replace(plan, training=chosen, pretrain=start)
        resume = (folder / "config.yaml").is_file()
        model = train_plan(plan, folder, pick_device(args.device), resume=resume).checkpoint
    else:
        model = Path(start)
    segmenter = Segmenter.load(model, args.device)
    scores = defaultdict[str, list[float]](list)
    for record in plan.validation:
        settings: dict[str, Any] = {"cell_type": record.cell_type}
        if not chosen:
            settings = {"diameter": plan.config.cell_types[record.cell_type].diameter}
        found = segmenter.segment(record.image(), **settings)
        scores[record.cell_type].append(competition_score(record.masks(), found.labels))
    return scores


def score_peer(
    plan: Plan, start: str, chosen: list[Record], folder: Path, args: argparse.Namespace
) -> Scores:
    """The same of Cellpose."""
    write_images([*chosen, *plan.validation], folder)
    first = None if start == NONE else Path(start)
    peer = Peer(args.peer, folder, args.device, "float32", False, first)
    crops = EPOCH * args.epochs
    scored = {record.image_id: 0 for record in plan.validation}
    run = Run(
        config=plan.config,
        records=[*chosen, *plan.validation],
        fold_of={record.image_id: 1 for record in chosen} | scored,
        scores={},
        crops=crops,
        seconds=0.0,
        more="",
        tta=1,
    )
    if peer.fold(run, 0, crops) is None:
        raise SystemExit("name Cellpose's interpreter with --peer")
    scores = defaultdict[str, list[float]](list)
    for record in plan.validation:
        scores[record.cell_type].append(peer.score(record, 0))
    return scores


def measure(args: argparse.Namespace) -> pd.DataFrame:
    """A row for each side, number of images and draw."""
    schedule = {"epochs": args.epochs, "validate_every": args.epochs, "crops_per_epoch": EPOCH}
    overrides = [f"training.{name}={value}" for name, value in schedule.items()]
    config = load_config("all", recipe="laptop", overrides=[*overrides, "data.folds=2"])
    approximate = args.data / "approximate_ids.txt"
    only = approximate if approximate.is_file() else None
    (plan,) = plan_folds(config, args.data, NONE, only, only=0)
    candidates = [record for record in plan.training if plan.folds[record.image_id] >= 0]
    sides = [(score_ours, "flowseg", start) for start in args.start]
    sides += [(score_peer, "cellpose", start) for start in args.peer_start]
    rows = []
    for count in args.images:
        for seed in range(args.draws if count else 1):
            chosen = draw(candidates, count, seed)
            for score, side, start in sides:
                if count == 0 and (start == NONE or side == "cellpose"):
                    continue
                name = f"{side}-{Path(start).stem}"
                folder = args.out / f"{name}-{count}-{seed}"
                done = args.out / f"{folder.name}.json"
                if not done.is_file():
                    scores = score(plan, start, chosen, ensure_writable_folder(folder), args)
                    write_text(done, json.dumps(scores, indent=2) + "\n")
                scores = json.loads(done.read_text(encoding="utf-8"))
                every = [one for values in scores.values() for one in values]
                means = {kind: float(np.mean(values)) for kind, values in sorted(scores.items())}
                row = {"side": name, "images": count, "draw": seed, "all": float(np.mean(every))}
                rows.append(row | means)
    return pd.DataFrame(rows)


def draw_curve(rows: pd.DataFrame, path: Path) -> None:
    """The mean score of each side against the number of images, and the range of the draws."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for side, points in rows.groupby("side", sort=False):
        scores = points.groupby("images")["all"]
        mean = scores.mean()
        positions = np.sqrt(mean.index.to_numpy())
        axes.plot(positions, mean, marker="o", label=str(side))
        axes.fill_between(positions, scores.min(), scores.max(), alpha=0.15)
    ticks = sorted(rows["images"].unique())
    axes.set_xticks(np.sqrt(ticks), [str(tick) for tick in ticks])
    axes.set(xlabel="labelled images", ylabel="competition score of the other half", ylim=(0, None))
    axes.legend()
    with atomic_path(path) as part:
        figure.savefig(part, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Learn, score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the competition's folder")
    parser.add_argument("--out", type=Path, required=True, help="where all the work is kept")
    parser.add_argument("--images", type=int, nargs="+", default=[0, 1, 3, 8, 16])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help=f"of {EPOCH} crops, for both sides")
    parser.add_argument("--start", nargs="*", default=["phase", NONE], help="of flowseg")
    parser.add_argument("--peer", help="python with cellpose 3")
    parser.add_argument("--peer-start", nargs="*", default=[], help="of cellpose")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args(argv)
    frame = measure(args)
    write_table(args.out / "curve.csv", frame)
    draw_curve(frame, args.out / "curve.png")
    mean = frame.drop(columns="draw").groupby(["side", "images"], sort=False).mean()
    shown = [["side", "images", *mean.columns]]
    shown += [
        [side, str(count), *(f"{value:.4f}" for value in values)]
        for (side, count), *values in mean.itertuples()
    ]
    print(table(shown, args.markdown))


if __name__ == "__main__":
    main()
