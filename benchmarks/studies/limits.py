"""Where a cross validation loses its score: what perfect knowledge of one thing would give.

    python train.py --data D --cell-type all --folds 5 --out runs/all-5folds
    python benchmarks/studies/limits.py --data D runs/all-5folds

From the out-of-fold flow fields, at the thresholds on the cards, the mean score of each cell type

- as it is,
- with the true mask and the network's flows, and with the true flows and the network's mask,
- with each image at the cellprob threshold that is best for it, which nobody can know: annotators
  draw outlines tighter or looser,
- without the cells whose score (`flowseg.flow.residuals.instance_scores`) is below a cut:
  the best cut for these images, and, nested, each image at the cut that wins on other groups. A
  cut wins by its mean gain less the standard error, as in the calibration.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from flowseg.arrays.overlaps import masks_to_labels
from flowseg.config.schema import CellTypeSettings
from flowseg.data.detect import read_records
from flowseg.data.record import Record
from flowseg.flow.representation import flows_to_labels, labels_to_flows
from flowseg.flow.residuals import instance_scores
from flowseg.inference.flow_field import load_fields
from flowseg.io.tables import read_table
from flowseg.metrics.competition import competition_score
from flowseg.network.checkpoint import read_card
from flowseg.reports.text import text_table

CUTS = np.arange(0.0, 0.9, 0.05)
SHIFTS = np.arange(-2.0, 2.01, 0.25)
CERTAIN = 5.0  # logit
MARGIN = 6.0  # pixels around a true cell in which a foreground pixel belongs to it


def scores_of(record: Record, settings: CellTypeSettings, fields: Path) -> list[float]:
    """As it is, true mask, true flows, best threshold of the image; then each cut."""
    flows, cellprob = load_fields(fields / f"{record.image_id}.npz")
    masks = record.masks()

    def labels_of(flows: NDArray, cellprob: NDArray, shift: float = 0.0) -> NDArray[np.int32]:
        return flows_to_labels(
            flows,
            cellprob,
            cellprob_threshold=settings.cellprob_threshold + shift,
            flow_threshold=settings.flow_threshold,
            min_size=settings.min_size,
        )

    truth = masks_to_labels(masks)
    mask = np.where(truth > 0, CERTAIN, -CERTAIN).astype(np.float32) + settings.cellprob_threshold
    labels = labels_of(flows, cellprob)
    confidence = instance_scores(labels, flows, cellprob)
    return [
        competition_score(masks, labels),
        competition_score(masks, labels_of(flows, mask)),
        competition_score(masks, labels_of(_flows_around(truth), cellprob)),
        max(competition_score(masks, labels_of(flows, cellprob, shift)) for shift in SHIFTS),
        *(competition_score(masks, _without(labels, confidence < cut)) for cut in CUTS),
    ]


def _flows_around(truth: NDArray[np.int32]) -> NDArray[np.float32]:
    """The flows of the true cells, each grown by a margin."""
    distance, nearest = distance_transform_edt(truth == 0, return_indices=True)
    return labels_to_flows(np.where(distance < MARGIN, truth[tuple(nearest)], 0).astype(np.int32))


def _without(labels: NDArray[np.int32], dropped: NDArray[np.bool_]) -> NDArray[np.int32]:
    ids = np.where(dropped, 0, np.cumsum(~dropped))
    return np.concatenate(([0], ids)).astype(np.int32)[labels]


def nested(by_cut: NDArray[np.float64], groups: list[str]) -> float:
    """The mean score of images (N, cuts), each at the cut that wins on those of other groups."""
    scores = []
    for k, group in enumerate(groups):
        others = np.array([other != group for other in groups])
        gains = (by_cut - by_cut[:, :1])[others]
        bound = gains.mean(axis=0) - gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
        scores.append(by_cut[k, bound.argmax()])
    return float(np.mean(scores))


def main() -> None:
    """Print the table of one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a cross validation")
    parser.add_argument("--data", type=Path, required=True, help="the competition's folder")
    args = parser.parse_args()
    cell_types = read_card(args.run / "fold0" / "best.safetensors").cell_types
    scored = set(read_table(args.run / "out_of_fold.csv", ("id",))["id"])
    found, groups = defaultdict(list), defaultdict(list)
    for record in read_records(args.data, tuple(cell_types)):
        if record.image_id in scored:
            settings = cell_types[record.cell_type]
            scores = scores_of(record, settings, args.run / "out_of_fold")
            found[record.cell_type].append(scores)
            groups[record.cell_type].append(record.group)
    header = ["cell type", "images", "as it is", "true mask", "true flows"]
    header += ["best threshold", "best cut", "nested cut"]
    rows = []
    for name, images in found.items():
        values = np.array(images)
        means = values[:, :4].mean(axis=0)
        cuts = values[:, 4:]
        last = (cuts.mean(axis=0).max(), nested(cuts, groups[name]))
        rows.append([name, str(len(images)), *(f"{value:.4f}" for value in (*means, *last))])
    print(text_table(rows, header))


if __name__ == "__main__":
    main()
