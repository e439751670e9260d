"""Score a prediction against the truth, file against file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from tqdm import tqdm

from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.evaluation.sources import read_predictions, read_truth
from flowseg.io.paths import PathLike
from flowseg.metrics.competition import THRESHOLDS, Counts, Mistakes, compare
from flowseg.metrics.other import (
    CocoPrecision,
    aggregated_jaccard,
    coco_mask_precision,
    pooled_precision,
)

__all__ = ["Evaluation", "ImageResult", "OtherMetrics", "evaluate"]


@dataclass(frozen=True)
class ImageResult:
    """What one image came to.

    Attributes
    ----------
    image_id, cell_type : str
        The type is blank where the truth does not tell.
    counts : Counts
        At each of `competition.THRESHOLDS`.
    mistakes : Mistakes
        At an IoU of one half.
    """

    image_id: str
    cell_type: str
    counts: Counts
    mistakes: Mistakes

    @property
    def score(self) -> float:
        """The competition's score of the image."""
        return self.counts.score


@dataclass(frozen=True)
class OtherMetrics:
    """Numbers of other papers, each of which is not the competition's.

    Attributes
    ----------
    pooled_ap50 : float
        TP / (TP + FP + FN) at IoU 0.5, summed over all images first: see `pooled_precision`.
    aggregated_jaccard : float
        AJI, the mean over images.
    coco_mask : CocoPrecision or None
        Where it was asked for.
    """

    pooled_ap50: float
    aggregated_jaccard: float
    coco_mask: CocoPrecision | None


@dataclass(frozen=True)
class Evaluation:
    """What a prediction came to.

    Attributes
    ----------
    images : tuple of ImageResult
        In order of the ids.
    missing : tuple of str
        Images of the truth without a prediction, in order.
    missing_counted : bool
        Whether those are among `images`, as if nothing had been found in them.
    other : OtherMetrics or None
        Where they were asked for.
    """

    images: tuple[ImageResult, ...]
    missing: tuple[str, ...] = ()
    missing_counted: bool = False
    other: OtherMetrics | None = field(default=None)

    @property
    def score(self) -> float:
        """The competition's score: the mean over all images."""
        return float(np.mean([image.score for image in self.images]))

    @property
    def precisions(self) -> tuple[float, ...]:
        """At each threshold the mean over all images; their mean is the score."""
        return tuple(np.mean([image.counts.precisions for image in self.images], axis=0).tolist())

    @property
    def cell_types(self) -> tuple[str, ...]:
        """The types in the truth, in order; blank for images without."""
        return tuple(sorted({image.cell_type for image in self.images}))

    def of_type(self, cell_type: str) -> Evaluation:
        """The images of one type only."""
        return Evaluation(tuple(image for image in self.images if image.cell_type == cell_type))

    def totals(self, position: int) -> tuple[int, int, int]:
        """TP, FP and FN of all images at one threshold, by its position."""
        counts = [image.counts for image in self.images]
        return (
            sum(count.tp[position] for count in counts),
            sum(count.fp[position] for count in counts),
            sum(count.fn[position] for count in counts),
        )

    def mistakes(self) -> Mistakes:
        """What went wrong at an IoU of one half, in all images."""
        names = ("missed", "spurious", "split", "merged")
        return Mistakes(
            *(sum(getattr(image.mistakes, name) for image in self.images) for name in names)
        )

    def worst_first(self) -> list[ImageResult]:
        """The images by ascending score, then by id."""
        return sorted(self.images, key=lambda image: (image.score, image.image_id))


def evaluate(
    truth: PathLike,
    pred: PathLike,
    *,
    missing: Literal["leave_out", "count"] = "leave_out",
    other: Sequence[Literal["pooled", "coco"]] = (),
    images: Iterable[str] | None = None,
) -> Evaluation:
    """Score a prediction by the competition's metric.

    Parameters
    ----------
    truth : path
        A `train.csv` (or .csv.gz), a COCO JSON file or a folder of label TIFFs.
    pred : path
        A submission CSV or a folder of label TIFFs.
    missing : str
        Images of the truth that the prediction does not hold: `leave_out`, so that a prediction
        of the validation images can be scored against the whole `train.csv`; or `count`, as if
        nothing had been found in them. They are named in the result either way.
    other : sequence of str
        Metrics of other papers besides: `pooled` for the pooled AP at 0.5 and AJI, `coco` for
        these and COCO mask AP.
    images : iterable of str, optional
        Score these images only; others of either file are passed over. Each must be in the truth.

    Returns
    -------
    Evaluation

    Raises
    ------
    FlowsegError
        Where a file cannot be read, the prediction holds an image the truth does not know or a
        row that is no mask, or no image is left to score.
    """
    known = read_truth(truth)
    found = read_predictions(pred, known)
    if images is not None:
        chosen = set(images)
        unknown = sorted(chosen - set(known))
        if unknown:
            raise FlowsegError(f"the image {unknown[0]!r} is not in the truth", file=truth)
        known = {image_id: source for image_id, source in known.items() if image_id in chosen}
        found = {image_id: source for image_id, source in found.items() if image_id in chosen}
    absent = tuple(image_id for image_id in known if image_id not in found)
    scored = [image_id for image_id in known if image_id in found or missing == "count"]
    if not scored:
        raise FlowsegError("holds none of the images to score", file=pred)
    results, hits, jaccards, pairs = [], [], [], []
    for image_id in tqdm(scored, desc="scoring", unit="image", delay=2, leave=False):
        source = known[image_id]
        a = source.masks()
        b = found[image_id].masks() if image_id in found else Masks.from_dense([], source.shape)
        table = compare(a, b)
        results.append(
            ImageResult(image_id, source.cell_type, table.counts(THRESHOLDS), table.mistakes())
        )
        if other:
            hits.append(table.counts((50,), inclusive=True))
            jaccards.append(aggregated_jaccard(table))
        if "coco" in other:
            pairs.append((a, b))
    extra = None
    if other:
        extra = OtherMetrics(
            pooled_ap50=pooled_precision(hits),
            aggregated_jaccard=float(np.mean(jaccards)),
            coco_mask=coco_mask_precision(pairs) if "coco" in other else None,
        )
    return Evaluation(tuple(results), absent, missing == "count" and bool(absent), extra)
