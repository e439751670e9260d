"""How good a model is on real images that it has never seen: the shipped one, or any other.

    python benchmarks/shipped_model.py --data D [--model phase] [--tta 4] [--json OUT]

D is the competition's folder with LIVECell inside. Every exactly labelled image is segmented twice:
with the mean diameter of its cell type told, and with the diameter measured on the image. Prints
the competition's score by cell type, and how far the measured diameter is from the true one, as the
mean absolute logarithm to base 2 (1: twice or half as large).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flowseg.arrays.labels import equivalent_diameter
from flowseg.data.detect import read_records
from flowseg.data.folds import read_ids
from flowseg.data.livecell import FOLDER
from flowseg.data.record import Record
from flowseg.inference.segmenter import Segmenter
from flowseg.metrics.competition import competition_score
from flowseg.reports.text import text_table


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="phase")
    parser.add_argument("--tta", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    segmenter = Segmenter.load(args.model, tta=args.tta)
    approximate = args.data / "approximate_ids.txt"
    inexact = read_ids(approximate) if approximate.exists() else frozenset()
    sets = {"competition": [r for r in read_records(args.data) if r.image_id not in inexact]}
    if (args.data / FOLDER).is_dir():
        sets["LIVECell"] = read_records(args.data / FOLDER)
    result: dict[str, Any] = {}
    for name, records in sets.items():
        rows = result[name] = measure(segmenter, records)
        table = [
            (
                cell_type,
                row["images"],
                *(f"{row[key]:.3f}" for key in ("told", "measured", "error")),
            )
            for cell_type, row in rows.items()
        ]
        header = [name, "images", "diameter told", "measured", "its error"]
        print(text_table(table, header))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def measure(segmenter: Segmenter, records: list[Record]) -> dict[str, dict[str, float]]:
    """The mean scores and the diameter's error, by cell type and over all images."""
    true = {record.image_id: mean_diameter(record) for record in records}
    typical = defaultdict(list)
    for record in records:
        typical[record.cell_type].append(true[record.image_id])
    images = defaultdict(list)
    for record in tqdm(records, unit="image"):
        masks, image = record.masks(), record.image()
        diameter = float(np.mean(typical[record.cell_type]))
        told = segmenter.segment(image, diameter=diameter)
        measured = segmenter.segment(image, diameter="auto")
        error = abs(np.log2(measured.diameter / true[record.image_id]))
        scores = [competition_score(masks, found.labels) for found in (told, measured)]
        images[record.cell_type].append((*scores, error))
        images["all"].append((*scores, error))
    return {
        name: {"images": len(rows)}
        | dict(zip(("told", "measured", "error"), np.mean(rows, axis=0).tolist(), strict=True))
        for name, rows in images.items()
    }


def mean_diameter(record: Record) -> float:
    """The mean diameter of an image's annotated cells."""
    return float(equivalent_diameter(record.masks().areas()).mean())


if __name__ == "__main__":
    main()
