"""Whether a model's own labels of further images make it better, with the true ones put aside.

    python benchmarks/studies/pseudo_labels.py --data ../shared/data --out runs/pseudo --seeds 3
    python benchmarks/studies/pseudo_labels.py --data runs/drawn --draw 30 --out runs/pseudo

Of the images that a fold trains on, half (by well) keep their labels. A model learns from these
alone; it labels the other half; and a new model learns from both, once for each weight. "true
labels" are those that were put aside, at the first weight: how much could be gained. All trainings
take as many crops, start from fresh weights or from `--pretrain` (such as a LIVECell stage that
train.py has kept), and are scored after their last epoch on the images that the fold keeps back.
Images are labelled under names as in train_semi_supervised, so that their cell type is read from
the name.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from flowseg.arrays.overlaps import masks_to_labels
from flowseg.config.loading import load_config
from flowseg.config.schema import Config
from flowseg.data.detect import read_records
from flowseg.data.folds import assign_folds, split_fold
from flowseg.data.record import Record
from flowseg.data.sartorius import CELL_TYPES
from flowseg.inference.segmenter import Segmenter
from flowseg.io.atomic import ensure_writable_folder
from flowseg.metrics.competition import competition_score
from flowseg.network.device import pick_device
from flowseg.network.unet import FlowNetwork
from flowseg.prediction.pseudo_labels import Limits, pseudo_label, report
from flowseg.synthetic.datasets import write_synthetic_sartorius
from flowseg.training.plan import measure_cells
from flowseg.training.pretraining import inherit
from flowseg.training.provenance import provenance_of
from flowseg.training.run_folder import BEST, TRAINING
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage


@dataclass(frozen=True)
class Trial:
    """What all trainings of one seed share."""

    config: Config
    labelled: list[Record]
    validation: list[Record]
    device: torch.device
    start: Path | None

    def train(self, folder: Path, extra: Sequence[Record] = (), weight: float = 0.0) -> Path:
        """Train on the labelled images and others; the checkpoint of the last epoch."""
        data = replace(self.config.data, extra_weight=weight)
        cell_types = measure_cells(self.config.cell_types, self.labelled)
        config = replace(self.config, data=data, cell_types=cell_types)
        provenance = provenance_of(config, self.labelled, ()) | {"stage": TRAINING}
        network = FlowNetwork(config.network, len(cell_types), config.seed)
        if self.start is not None:
            inherit(network, self.start)
        stage = Stage(
            folder=ensure_writable_folder(folder),
            config=config,
            schedule=config.training,
            training=self.labelled,
            validation=(),
            extra=extra,
            provenance=provenance,
        )
        train_stage(stage, network, self.device, resume=False)
        return folder / BEST

    def score(self, model: Path) -> dict[str, float]:
        """The competition score of the images kept back: of each cell type, and of all."""
        segmenter = Segmenter.load(model, str(self.device))
        scores: dict[str, list[float]] = {}
        for record in self.validation:
            found = segmenter.segment(record.image(), cell_type=record.cell_type).labels
            score = competition_score(record.masks(), found)
            for name in (record.cell_type, "all"):
                scores.setdefault(name, []).append(score)
        return {name: float(np.mean(values)) for name, values in scores.items()}


def label(model: Path, unlabelled: list[Record], folder: Path, limits: Limits) -> list[Record]:
    """The images with confident cells, with their pseudo labels."""
    copies = ensure_writable_folder(folder / "images")
    paths = []
    for record in unlabelled:
        path = copies / f"{record.cell_type}_{record.image_id}{record.image_path.suffix}"
        paths.append(Path(shutil.copyfile(record.image_path, path)))
    done = pseudo_label([model], paths, folder / "pseudo", limits=limits)
    print(report(done))
    labelled = read_records(folder / "pseudo", CELL_TYPES)
    truth = {f"{record.cell_type}_{record.image_id}": record for record in unlabelled}
    scores = [
        competition_score(truth[r.image_id].masks(), masks_to_labels(r.masks())) for r in labelled
    ]
    print(f"score of these labels against the true ones: {np.mean(scores):.3f}", flush=True)
    return labelled


def main() -> None:
    """Train with and without, for each seed, and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draw", type=int, help="draw so many images into --data first")
    parser.add_argument("--edge", type=int, default=384, help="of drawn images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pretrain", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.5])
    parser.add_argument("--min-score", type=float, default=Limits().score)
    parser.add_argument("--min-share", type=float, default=Limits().share)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.draw:
        write_synthetic_sartorius(args.data, args.draw, 0, 1, (args.edge, args.edge))
    records = read_records(args.data, CELL_TYPES)
    training, validation = split_fold(records, assign_folds(records, args.folds), args.fold)
    labelled, unlabelled = split_fold(training, assign_folds(training, 2), 0)
    counts = len(labelled), len(unlabelled), len(validation)
    print("{} images with labels, {} without, {} to score on".format(*counts))
    print(f"{'seed':4} {'trained on':28} " + " ".join(f"{c:>8}" for c in (*CELL_TYPES, "all")))
    for seed in range(args.seeds):
        config = load_config("all", overrides=[*args.set, f"seed={seed}"])
        trial = Trial(config, labelled, validation, pick_device(args.device), args.pretrain)
        folder = args.out / f"seed{seed}"

        def show(what: str, model: Path, trial: Trial = trial, seed: int = seed) -> None:
            scores = trial.score(model)
            numbers = " ".join(f"{scores.get(c, np.nan):8.4f}" for c in (*CELL_TYPES, "all"))
            print(f"{seed:4} {what:28} {numbers}", flush=True)

        alone = trial.train(folder / "alone")
        show("labelled half", alone)
        pseudo = label(alone, unlabelled, folder, Limits(args.min_score, args.min_share))
        for weight in args.weights:
            model = trial.train(folder / f"pseudo{weight:g}", pseudo, weight)
            show(f"and pseudo labels, weight {weight:g}", model)
        true = trial.train(folder / "true", unlabelled, args.weights[0])
        show(f"and true labels, weight {args.weights[0]:g}", true)


if __name__ == "__main__":
    main()
