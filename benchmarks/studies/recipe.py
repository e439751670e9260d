"""What a change of the recipe gives, on the images that a run kept back.

    python train.py --data D --cell-type all --folds 2 --fold 0 --out runs/trial --set ...
    python benchmarks/studies/recipe.py --data D runs/trial [runs/other ...] [--tta 4]

Two scores for each cell type: with the thresholds of the card, and the best of all thresholds of
the calibration's grid, chosen on these very images. The second flatters, but alike for all recipes,
and hides no recipe that merely needs another threshold. Beside them what training minimises, with
much less noise than a score of few images has: cross entropy of cellprob a pixel, and squared flow
error a pixel of a cell. The last weights are taken, which nothing was chosen for. Several runs are
averaged as an ensemble; they must have kept back the same images.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from flowseg.arrays.intensity import normalize
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.data.detect import read_records
from flowseg.data.record import Record
from flowseg.evaluation.calibration import default_grid
from flowseg.evaluation.threshold_grid import Sample, score_grid
from flowseg.flow.representation import labels_to_flows
from flowseg.inference.auto_scale import classify_cell_type
from flowseg.inference.options import settings_for
from flowseg.inference.segmenter import Segmenter
from flowseg.reports.text import text_table


def main() -> None:
    """Print the table of some runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tta", type=int, default=1)
    args = parser.parse_args()
    segmenter = Segmenter.load([run / "last.safetensors" for run in args.runs], tta=args.tta)
    summaries = [json.loads((run / "summary.json").read_text()) for run in args.runs]
    (validation,) = {frozenset(summary["validation_images"]) for summary in summaries}
    tables = defaultdict(list)
    for record in read_records(args.data, tuple(segmenter.card.cell_types)):
        if record.image_id in validation:
            tables[record.cell_type].append(measure(segmenter, record))
    header = ["cell type", "images", "score", "best of grid", "cross entropy", "flow error"]
    lines = []
    for name, rows in tables.items():
        settings = settings_for(segmenter.card, name)
        default = default_grid(settings).index_of(settings)
        scores = np.mean([scores for scores, *_ in rows], axis=0)
        entropy, error, classified = np.mean([row[1:] for row in rows], axis=0)
        lines.append((name, len(rows), scores[default], scores.max(), entropy, error, classified))
    counts = [count for _, count, *_ in lines]
    means = np.average([line[2:] for line in lines], axis=0, weights=counts)
    rows = [
        (name, count, *(f"{number:.4f}" for number in numbers), f"{classified:.0%}")
        for name, count, *numbers, classified in [*lines, ("all", sum(counts), *means)]
    ]
    print(text_table(rows, [*header, "classified"]))


def measure(segmenter: Segmenter, record: Record) -> tuple[np.ndarray, float, float, bool]:
    """Scores over the grid, cross entropy, flow error, and whether the cell type is right."""
    grey = normalize(record.image())
    settings = settings_for(segmenter.card, record.cell_type)
    field = segmenter.predict_flows(grey, settings)
    truth = record.masks()
    labels = masks_to_labels(truth)
    inside = labels > 0
    logit = field.cellprob.astype(np.float64)
    entropy = float(np.mean(np.logaddexp(0, logit) - logit * inside))
    error = float(np.square(field.flows - labels_to_flows(labels)).sum(axis=0)[inside].mean())
    sample = Sample(
        image_id=record.image_id,
        cell_type=record.cell_type,
        group=record.group,
        truth=truth,
        flows=field.flows,
        cellprob=field.cellprob,
    )
    classified = classify_cell_type(segmenter, grey) == record.cell_type
    return score_grid(sample, default_grid(settings)), entropy, error, classified


if __name__ == "__main__":
    main()
