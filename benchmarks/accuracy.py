"""Out-of-fold competition score of flowseg beside cellpose 3, learned on the same folds and crops.

    python benchmarks/accuracy.py --data ../shared/data --run runs/all-3folds \\
        --peer CP3/bin/python --out runs/cellpose-3folds

`--run` is the folder of a cross validation, made by `train.py --folds N`; with `--train ARGUMENTS`
at the end of the line that command is run first, or resumed. `--peer` is the interpreter of an
environment with cellpose==3.1.1.3: its residual U-Net learns from scratch with `train_seg`, on as
many crops a fold as flowseg's, from the same label images, and is told the cells' diameters. It
learns in its own float32 or, with `--peer-precision bfloat16`, in mixed precision as flowseg does,
which takes a CPU less than half the time; it always predicts in float32. With `--peer-start FILE`
it goes on training a model of Cellpose, as `train.py --pretrain FILE` does. flowseg averages as
many views as its run's summary says, cellpose those of `--peer-augment` or one. Cellpose predicts
at its default thresholds, as flowseg does but for the column "calibrated", whose thresholds were
tuned on images of other groups; the network of both is told the cell type or its diameter. Weights
and predictions stay in `--out`, so that the same command goes on where it was stopped: a fold at a
time in training, an image at a time in predicting. Both sides are scored against the true masks,
overlaps and all. With `--until RUN`, one fold's run of `train.py --folds N --fold K` on the same
machine, it tells how soon its validation, after each epoch, passes the score that cellpose ends
with on that fold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cellpose_peer import ask, write_images
from dynamics import table

from flowseg.config.loading import load_config
from flowseg.config.schema import Config, ScheduleConfig
from flowseg.data.detect import read_records
from flowseg.data.folds import split_fold
from flowseg.data.record import Record
from flowseg.evaluation.calibration import bootstrap_interval
from flowseg.io.atomic import ensure_writable_folder, write_text
from flowseg.io.tables import read_table, write_table
from flowseg.metrics.competition import competition_score
from flowseg.training.provenance import fingerprint

SEED = 42


class Scores(NamedTuple):
    """One image out of fold; `calibrated` at thresholds tuned on images of other groups."""

    id: str
    cell_type: str
    fold: int
    flowseg: float
    calibrated: float
    cellpose: float


@dataclass(frozen=True)
class Run:
    """A finished cross validation of flowseg."""

    config: Config
    records: list[Record]
    fold_of: dict[str, int]
    scores: dict[str, tuple[float, float]]
    crops: int
    seconds: float
    more: str  # what it had and cellpose has not
    tta: int

    @property
    def folds(self) -> range:
        return range(self.config.data.folds)


def read_run(folder: Path, data: Path) -> Run:
    """What `train.py --folds N` left; crops are those of one fold, seconds those of all."""
    first = folder / "fold0"
    config = load_config(path=first / "config.yaml")
    origin = json.loads((first / "origin.json").read_text(encoding="utf-8"))
    rows = read_table(folder / "out_of_fold.csv", ("id", "score", "calibrated_score"))
    folds = read_table(first / "folds.csv", ("id", "fold"))
    columns = ["seconds", "seconds_validating"]
    epochs = pd.concat(
        read_table(folder / f"fold{fold}" / "metrics.csv", columns)[columns].astype(float)
        for fold in range(config.data.folds)
    )
    seconds = float((epochs["seconds"] - epochs["seconds_validating"]).sum())
    return Run(
        config,
        read_records(data, tuple(config.cell_types), config.data.include_flawed),
        dict(zip(folds["id"], folds["fold"].astype(int), strict=True)),
        {row.id: (float(row.score), float(row.calibrated_score)) for row in rows.itertuples()},
        _crops(config.training, origin["processes"]),
        seconds,
        _more(config, origin),
        int(json.loads((folder / "summary.json").read_text(encoding="utf-8")).get("tta", 1)),
    )


def _crops(schedule: ScheduleConfig, processes: int) -> int:
    batch = schedule.batch_size * processes
    return schedule.epochs * -(-schedule.crops_per_epoch // batch) * batch


def _more(config: Config, origin: Mapping[str, Any]) -> str:
    """What the networks have learned from, and cellpose's have not."""
    start = Path(origin["pretrain"])
    if start.parent.name.startswith("livecell-"):
        text = f" after {_crops(config.pretraining, origin['processes']):,} of LIVECell for all"
    else:
        text = "" if origin["pretrain"] == "none" else f" after what {start} has learned"
    return text + (", also from more images than cellpose's" if origin.get("extra") else "")


def seconds_until(folder: Path, score: float) -> float | None:
    """Training time, without validation, until a run's validation passed `score`; None if never."""
    epochs = read_table(folder / "metrics.csv", ("seconds", "seconds_validating", "score"))
    seconds = epochs["seconds"].astype(float) - epochs["seconds_validating"].astype(float)
    passed = np.flatnonzero(pd.to_numeric(epochs["score"]) > score)
    return float(seconds[: passed[0] + 1].sum()) if passed.size else None


def how_soon(folder: Path, run: Run, peer: Peer, learned: Mapping[int, Mapping[str, Any]]) -> str:
    """When a run of one fold passed the score that cellpose ended with on it."""
    fold = load_config(path=folder / "config.yaml").data.fold
    rows = read_table(folder / "folds.csv", ("id", "fold"))
    if dict(zip(rows["id"], rows["fold"].astype(int), strict=True)) != run.fold_of:
        raise SystemExit(f"{folder} has other folds than --run")
    if fold not in learned:
        raise SystemExit(f"cellpose has not learned fold {fold}, that of {folder}")
    _, validation = split_fold(run.records, run.fold_of, fold)
    score = float(np.mean([peer.score(record, fold) for record in validation]))
    seconds, learning = seconds_until(folder, score), float(learned[fold]["seconds"])
    told = f"cellpose's score of fold {fold}, {score:.4f} after {learning:,.0f} s, was"
    if seconds is None:
        return f"{told} not passed in {folder}"
    return (
        f"{told} passed in {folder} after {seconds:,.0f} s: {learning / seconds:.1f} times sooner"
    )


def train(folder: Path, data: Path, arguments: Sequence[str]) -> None:
    """Run or resume train.py, unless it is done."""
    if (folder / "summary.json").is_file():
        return
    script = Path(__file__).parent.parent / "train.py"
    command = [sys.executable, str(script), "--data", str(data), "--out", str(folder), *arguments]
    if (folder / "config.yaml").is_file():
        command.append("--resume")
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("flowseg's training ended early; the same command resumes it")


class Peer:
    """Cellpose, whose work stays in a folder; without an interpreter, only what it has done."""

    def __init__(
        self,
        python: str | None,
        out: Path,
        device: str,
        precision: str,
        augment: bool,
        start: Path | None = None,
    ) -> None:
        self.start = None if start is None else str(start.resolve())
        self.python, self.out, self.device, self.precision = python, out, device, precision
        self.augment = augment

    @property
    def suffix(self) -> str:
        return ".augmented.npy" if self.augment else ".npy"

    def fold(self, run: Run, fold: int, crops: int) -> dict[str, Any] | None:
        """How it learned a fold, having predicted its images; None if it cannot."""
        training, validation = split_fold(run.records, run.fold_of, fold)
        folder = self.out / f"fold{fold}"
        diameters = {record.image_id: _diameter(run.config, record) for record in validation}
        learned = self._learn(folder, training, crops, diameters)
        wanted = {
            image_id: diameter
            for image_id, diameter in diameters.items()
            if not (folder / f"{image_id}{self.suffix}").is_file()
        }
        if learned is None or (wanted and self.python is None):
            print(f"(fold {fold} of cellpose is left out: no --peer PYTHON given)")
            return None
        if wanted:
            how = {"suffix": self.suffix, "augment": self.augment}
            self._ask("predict", diameters=wanted, out=str(folder), **how)
        return learned

    def _learn(
        self,
        folder: Path,
        training: Sequence[Record],
        crops: int,
        diameters: Mapping[str, float],
    ) -> dict[str, Any] | None:
        task = {
            "ids": [record.image_id for record in training],
            "crops": crops,
            "seed": SEED,
            "precision": self.precision,
            "start": self.start,
        }
        # With all that its predictions depend on: they are kept as well.
        asked = task | {"data": fingerprint(training), "told": diameters, "device": self.device}
        done = folder / "learned.json"
        if done.is_file():
            learned = dict(json.loads(done.read_text(encoding="utf-8")))
            if learned["asked"] != asked:
                raise SystemExit(f"{folder} learned in another way; name another --out")
            return learned
        if self.python is None:
            return None
        for stale in folder.glob("*.npy"):
            stale.unlink()
        answer = self._ask("learn", out=str(ensure_writable_folder(folder)), **task)
        learned = {"asked": asked, **answer}
        write_text(done, json.dumps(learned, indent=2) + "\n")
        return learned

    def _ask(self, do: str, **task: Any) -> dict[str, Any]:
        assert self.python is not None
        return ask(self.python, do, data=str(self.out), device=self.device, **task)

    def score(self, record: Record, fold: int) -> float:
        labels = np.load(self.out / f"fold{fold}" / f"{record.image_id}{self.suffix}")
        return competition_score(record.masks(), labels)


def _diameter(config: Config, record: Record) -> float:
    diameter = config.cell_types[record.cell_type].diameter
    if diameter is None:
        raise SystemExit(f"the diameter of {record.cell_type} is unknown")
    return diameter


def compare(images: Sequence[Scores], cell_types: Sequence[str]) -> list[list[str]]:
    """Mean scores by cell type, then of all images; differences with their 95% intervals.

    Intervals are of the mean over images: both sides' scores of an image are drawn together.
    """
    rows = [
        [
            *("cell type", "images", "flowseg", "calibrated", "cellpose 3"),
            *("flowseg - cellpose", "95% interval", "calibrated - cellpose", "95% interval"),
        ]
    ]
    for name in [*cell_types, "all"]:
        own = [image for image in images if name in (image.cell_type, "all")]
        if not own:
            continue
        scores = np.array([(i.flowseg, i.calibrated, i.cellpose) for i in own])
        row = [name, str(len(own)), *(f"{mean:.4f}" for mean in scores.mean(axis=0))]
        for gains in (scores[:, 0] - scores[:, 2], scores[:, 1] - scores[:, 2]):
            low, high = bootstrap_interval(gains, np.random.default_rng(SEED))
            row += [f"{gains.mean():+.4f}", f"{low:+.4f} to {high:+.4f}"]
        rows.append(row)
    return rows


def report(run: Run, learned: Mapping[int, Mapping[str, Any]]) -> str:
    """How long both took, and on what."""
    total = run.crops * len(run.folds)
    lines = [
        f"flowseg: {run.crops:,} crops a fold{run.more}; {len(run.folds)} folds in"
        f" {run.seconds:,.0f} s, {total / run.seconds:.2f} crops/s; views averaged: {run.tta}"
    ]
    for fold, answer in learned.items():
        lines.append(
            f"cellpose {answer['version']}, fold {fold}: {answer['crops']:,} crops"
            f" ({answer['epochs']} epochs of {answer['images']} images, their mean diameter"
            f" {answer['diameter']:.1f} px) in {answer['asked']['precision']} in"
            f" {answer['seconds']:,.0f} s,"
            f" {answer['crops'] / answer['seconds']:.2f} crops/s"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the competition's folder")
    parser.add_argument("--run", type=Path, required=True, help="flowseg's cross validation")
    parser.add_argument("--out", type=Path, required=True, help="where cellpose's work is kept")
    parser.add_argument("--peer", help="python with cellpose 3; without it finished folds count")
    parser.add_argument("--peer-folds", type=int, nargs="+", help="only these (default: all)")
    parser.add_argument("--crops", type=int, help="cellpose's a fold (default: flowseg's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of cellpose")
    parser.add_argument(
        "--peer-precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="in which cellpose learns",
    )
    parser.add_argument(
        "--peer-augment",
        action="store_true",
        help="cellpose averages overlapping mirrored tiles, as flowseg may average views",
    )
    parser.add_argument("--peer-start", type=Path, help="a model of Cellpose that it goes on with")
    parser.add_argument("--until", type=Path, help="a run of one fold: how soon it is as good")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument(
        "--train", nargs=argparse.REMAINDER, help="train first; the rest goes to train.py"
    )
    args = parser.parse_args(argv)
    if args.train is not None:
        train(args.run, args.data, args.train)
    run = read_run(args.run, args.data)
    out = ensure_writable_folder(args.out)
    peer = Peer(
        args.peer, out, args.device, args.peer_precision, args.peer_augment, args.peer_start
    )
    if args.peer:
        write_images(run.records, args.out)
    learned = {}
    for fold in args.peer_folds or run.folds:
        answer = peer.fold(run, fold, args.crops or run.crops)
        if answer is not None:
            learned[fold] = answer
    print(f"\n{report(run, learned)}\n")
    if args.until is not None:
        print(f"{how_soon(args.until, run, peer, learned)}\n")
    images = [
        Scores(name, record.cell_type, fold, *run.scores[name], peer.score(record, fold))
        for record in run.records
        for name, fold in [(record.image_id, run.fold_of[record.image_id])]
        if fold in learned
    ]
    if images:
        scores = args.out / f"scores{peer.suffix.removesuffix('.npy')}.csv"
        write_table(scores, pd.DataFrame(images))
        print(table(compare(images, list(run.config.cell_types)), args.markdown))


if __name__ == "__main__":
    main()
