"""The best score a label image can reach, for each way to resolve overlaps.

    python benchmarks/studies/overlap_ceiling.py --data ../shared/data

The truth, overlaps and all, is turned into a label image by each policy, and that is scored
against the truth. "whole" takes each label as one object. A network draws connected cells, so
"components" takes each connected component of at least 15 pixels as an object of its own, and
"largest" keeps each cell's largest component only. Mean over the images of each cell type.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import connected_components
from flowseg.arrays.labels import keep_largest_component
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.arrays.rle import Masks
from flowseg.data.sartorius import CELL_TYPES, read_annotations
from flowseg.metrics.competition import competition_score

Labels = NDArray[np.int32]


def remove_small(labels: Labels) -> Labels:
    """Without objects of fewer than 15 pixels."""
    return np.where(np.bincount(labels.ravel())[labels] >= 15, labels, 0)


def small_on_top(masks: Masks) -> Labels:
    """A contested pixel goes to the mask with the fewest pixels."""
    return masks.select(np.argsort(-masks.areas(), kind="stable")).paint()


def nearest_centre(masks: Masks) -> Labels:
    """A contested pixel goes to the mask whose centre of mass is nearest."""
    labels, distance = np.zeros(masks.shape, np.int32), np.full(masks.shape, np.inf)
    for index in range(len(masks)):
        y, x = np.nonzero(masks.dense(index))
        away = (y - y.mean()) ** 2 + (x - x.mean()) ** 2 if len(y) else y
        nearer = away < distance[y, x]
        labels[y[nearer], x[nearer]] = index + 1
        distance[y[nearer], x[nearer]] = away[nearer]
    return labels


POLICIES = {
    "maximum matching": masks_to_labels,
    "small on top": small_on_top,
    "nearest centre": nearest_centre,
    "last annotated": Masks.paint,
}

READINGS = {
    "whole": lambda labels: labels,
    "components": lambda labels: remove_small(connected_components(labels, True)),
    "largest": keep_largest_component,
}


def main() -> None:
    """Measure each policy on every annotated image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data
    images: dict[str, tuple[str, Masks]] = {}
    for name in ("train.csv", "annotations_without_images.csv.gz"):
        if (folder / name).is_file():
            for image_id, image in read_annotations(folder / name).items():
                images[image_id] = image.cell_type, image.masks
    for cell_type in CELL_TYPES:
        of_type = [masks for name, masks in images.values() if name == cell_type]
        print(f"{cell_type}: {len(of_type)} images, {sum(map(len, of_type))} masks")
    print(f"{'':16}" + "".join(f"{reading:^27}" for reading in READINGS))
    print(f"{'policy':16}" + "".join(f"{name:>9}" for name in CELL_TYPES) * len(READINGS))
    for name, policy in POLICIES.items():
        policy(next(iter(images.values()))[1])  # compiles
        start = time.perf_counter()
        labels = [policy(masks) for _, masks in images.values()]
        spent = (time.perf_counter() - start) / len(images)
        scores = defaultdict(list)
        for (cell_type, masks), drawn in zip(images.values(), labels, strict=True):
            for reading, read in READINGS.items():
                scores[reading, cell_type].append(competition_score(masks, read(drawn)))
        cells = "".join(
            f"{np.mean(scores[reading, cell_type]):9.4f}"
            for reading in READINGS
            for cell_type in CELL_TYPES
        )
        print(f"{name:16}{cells}   {spent * 1e3:.1f} ms an image")


if __name__ == "__main__":
    main()
