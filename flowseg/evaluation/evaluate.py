"""Evaluation: scores of a prediction file against a truth file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.evaluation.sources import Source, read_predictions, read_truth
from flowseg.io.paths import PathLike
from flowseg.metrics.competition import (
    THRESHOLDS,
    Contingency,
    Counts,
    Mistakes,
    compare,
    outside_crowd,
)
from flowseg.metrics.other import (
    CocoPrecision,
    aggregated_jaccard,
    coco_mask_precision,
    pooled_precision,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageResult:
    """The result of one image."""

    image_id: str
    cell_type: str
    """Blank where the truth does not tell."""
    table: Contingency
    """Areas and shared pixels of its N true and M predicted objects."""
    centres: tuple[NDArray[np.float64], NDArray[np.float64]]
    """(N, 2) and (M, 2): Centres of mass (y, x) of both."""
    truth: Source = field(repr=False)
    pred: Source | None = field(repr=False)

    @cached_property
    def counts(self) -> Counts:
        """At each of `competition.THRESHOLDS`."""
        return self.table.counts(THRESHOLDS)

    @cached_property
    def mistakes(self) -> Mistakes:
        """At an IoU of one half."""
        return self.table.mistakes()

    def masks(self) -> tuple[Masks, Masks]:
        """Truth and prediction, read again without empty masks: in the order of the table."""
        truth, pred = _masks(self.truth, self.pred)
        return truth.select(truth.areas() > 0), pred.select(pred.areas() > 0)

    @property
    def score(self) -> float:
        """The competition score of the image."""
        return self.counts.score


@dataclass(frozen=True)
class OtherMetrics:
    """Metrics of other papers, none of them the competition's."""

    pooled_ap50: float
    """TP / (TP + FP + FN) at IoU 0.5, summed over all images first: see `pooled_precision`."""
    aggregated_jaccard: float
    """AJI, the mean over images."""
    coco_mask: CocoPrecision | None
    """None unless it was requested."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """The result of a prediction, and the files or folders that were compared."""

    images: tuple[ImageResult, ...]
    """In order of the ids."""
    truth: Path
    pred: Path
    missing: tuple[str, ...] = ()
    """Images of the truth without a prediction, in order."""
    missing_counted: bool = False
    """Whether those are among `images`, as if nothing had been found in them."""
    other: OtherMetrics | None = None
    """None unless they were requested."""

    @property
    def score(self) -> float:
        """The competition score: the mean over all images."""
        return float(np.mean([image.score for image in self.images]))

    @property
    def precisions(self) -> tuple[float, ...]:
        """At each threshold the mean over all images; their mean is the score."""
        return tuple(np.mean([image.counts.precisions for image in self.images], axis=0).tolist())

    @property
    def cell_types(self) -> tuple[str, ...]:
        """The cell types of the truth, sorted; blank for images without one."""
        return tuple(sorted({image.cell_type for image in self.images}))

    def of_type(self, cell_type: str) -> Evaluation:
        """The evaluation of the images of one type only."""
        images = tuple(image for image in self.images if image.cell_type == cell_type)
        return replace(self, images=images, missing=(), missing_counted=False, other=None)

    def totals(self, position: int) -> tuple[int, int, int]:
        """TP, FP and FN of all images at one threshold, by its position."""
        counts = [image.counts for image in self.images]
        return (
            sum(count.tp[position] for count in counts),
            sum(count.fp[position] for count in counts),
            sum(count.fn[position] for count in counts),
        )

    def mistakes(self) -> Mistakes:
        """Mistakes at an IoU of one half, summed over all images."""
        counts = [asdict(image.mistakes) for image in self.images]
        return Mistakes(**{name: sum(count[name] for count in counts) for name in counts[0]})

    def worst_first(self) -> list[ImageResult]:
        """The images by ascending score, then by id."""
        return sorted(self.images, key=lambda image: (image.score, image.image_id))


def evaluate(
    truth: PathLike,
    pred: PathLike,
    *,
    missing: Literal["leave-out", "leave_out", "count"] = "leave-out",
    other: Sequence[Literal["pooled", "coco"]] = (),
    images: Iterable[str] | None = None,
) -> Evaluation:
    """Score a prediction by the competition's metric.

    Parameters
    ----------
    truth : path
        A `train.csv` (or .csv.gz), a COCO JSON file or a folder of label TIFFs.
    pred : path
        A submission CSV, a COCO JSON file (also of results) or a folder of label TIFFs.
    missing : str
        Images of the truth that the prediction does not hold: `leave-out` (or `leave_out`), so
        that a prediction of the validation images can be scored against the whole `train.csv`; or
        `count`, as if nothing had been found in them. They are named in the result either way.
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
        If a file cannot be read, the prediction holds an image the truth does not know or a
        row that is no mask, or no image is left to score.

    Notes
    -----
    COCO's `iscrowd` regions hold cells that nobody drew one by one. They are no cells to find, so
    that none is missed there; and a predicted cell is ignored if more than half of its pixels lie
    in them and in no annotated cell.
    """
    if missing.replace("_", "-") not in ("leave-out", "count"):
        raise FlowsegError(
            f"unknown way {missing!r} to treat missing images", remedy="choose leave-out or count"
        )
    truths = read_truth(truth)
    preds = read_predictions(pred, truths)
    if images is not None:
        chosen = set(images)
        unknown = sorted(chosen - set(truths))
        if unknown:
            raise FlowsegError(f"the image {unknown[0]!r} is not in the truth", file=truth)
        truths = {image_id: source for image_id, source in truths.items() if image_id in chosen}
    absent = tuple(image_id for image_id in truths if image_id not in preds)
    scored = [image_id for image_id in truths if image_id in preds or missing == "count"]
    if not scored:
        raise FlowsegError("holds none of the images to score", file=pred)
    results, pairs = [], []
    for image_id in tqdm(scored, desc="scoring", unit="image", delay=2, leave=False):
        source, found = truths[image_id], preds.get(image_id)
        masks = _masks(source, found)
        results.append(
            ImageResult(
                image_id=image_id,
                cell_type=source.cell_type,
                table=compare(*masks),
                centres=(_centres(masks[0]), _centres(masks[1])),
                truth=source,
                pred=found,
            )
        )
        if "coco" in other:
            pairs.append(masks)
    other_metrics = None
    if other:
        tables = [image.table for image in results]
        other_metrics = OtherMetrics(
            pooled_ap50=pooled_precision(table.counts((50,), inclusive=True) for table in tables),
            aggregated_jaccard=float(np.mean([aggregated_jaccard(table) for table in tables])),
            coco_mask=coco_mask_precision(pairs) if "coco" in other else None,
        )
    return Evaluation(
        images=tuple(results),
        truth=Path(truth),
        pred=Path(pred),
        missing=absent,
        missing_counted=missing == "count" and bool(absent),
        other=other_metrics,
    )


def _masks(truth: Source, pred: Source | None) -> tuple[Masks, Masks]:
    true = truth.masks()
    found = Masks.from_dense([], truth.shape) if pred is None else pred.masks()
    if truth.crowd is not None:
        found = found.select(outside_crowd(found, true, truth.crowd()))
    return true, found


def _centres(masks: Masks) -> NDArray[np.float64]:
    """Centres of mass (y, x) of the masks that are not empty.

    Of a run that goes on in the next row the first row counts.
    """
    masks = masks.select(masks.areas() > 0)
    owner = np.repeat(np.arange(len(masks)), np.diff(masks.offsets))
    rows, columns = np.divmod(masks.starts, masks.shape[1])
    middles = rows, columns + (masks.lengths - 1) / 2
    sums = [np.bincount(owner, middle * masks.lengths, len(masks)) for middle in middles]
    return np.stack(sums, axis=1) / masks.areas()[:, None]
