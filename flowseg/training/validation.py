"""Validation: the competition's scores of a network on labelled images, shared by the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.rle import Masks
from flowseg.data.record import Record
from flowseg.inference.segmenter import Segmenter
from flowseg.metrics.competition import competition_score, outside_crowd
from flowseg.training.distributed import gather, hides_progress, rank, world_size


def validation_scores(
    segmenter: Segmenter, records: Sequence[Record], on_image: Callable[[], object]
) -> list[float]:
    """The competition's score of each record, on every rank; the cell types are told.

    `on_image` is called before each image of this rank.
    """
    scores = {}
    for index in tqdm(
        range(rank(), len(records), world_size()),
        desc="validation",
        unit="image",
        leave=False,
        disable=hides_progress(),
    ):
        on_image()
        record = records[index]
        labels = segmenter.segment(record.image(), cell_type=record.cell_type).labels
        scores[index] = _score(record, labels)
    merged = {index: score for share in gather(scores) for index, score in share.items()}
    return [merged[index] for index in range(len(records))]


def mean_scores(
    records: Sequence[Record], scores: Sequence[float], cell_types: Sequence[str]
) -> dict[str, float]:
    """The mean over all images, then by cell type, as columns of `metrics.csv`."""
    means = {"score": float(np.mean(scores))}
    for name in cell_types:
        of_type = [s for s, record in zip(scores, records, strict=True) if record.cell_type == name]
        if of_type:
            means[f"score_{name}"] = float(np.mean(of_type))
    return means


def _score(record: Record, labels: NDArray[np.int32]) -> float:
    """The competition's score of the labels found in an image; crowd regions do not count."""
    truth, crowd = record.masks(), record.crowd_masks()
    if crowd is None:
        return competition_score(truth, labels)
    found = Masks.from_labels(labels)
    return competition_score(truth, found.select(outside_crowd(found, truth, crowd)))
