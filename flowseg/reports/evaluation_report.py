"""The page on an evaluation: scores, precision against size and crowding, the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from flowseg.arrays.intensity import normalize, to_grey
from flowseg.arrays.labels import equivalent_diameter, outlines
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.arrays.rle import Masks
from flowseg.data.record import size_differs
from flowseg.errors import FlowsegError
from flowseg.evaluation.evaluate import Evaluation, ImageResult
from flowseg.io.atomic import ensure_writable_file
from flowseg.io.images import read_image
from flowseg.io.paths import PathLike, find_images, find_labels
from flowseg.metrics.competition import HIT, MERGED, MISSED, SPLIT, SPURIOUS, THRESHOLDS
from flowseg.reports.charts import Chart, Points, distribution_chart, line_chart
from flowseg.reports.page import picture, write_page
from flowseg.reports.text import Row, image_rows, type_rows

_BINS = 10
_NEIGHBOURHOOD = 2  # mean diameters; the radius in which objects count as neighbours

OUTCOME_COLOURS = {
    HIT: (79, 174, 142),
    MISSED: (232, 52, 68),
    SPURIOUS: (48, 130, 245),
    SPLIT: (236, 164, 16),
    MERGED: (186, 85, 220),
}
"""RGB of what became of an object, as in page.css."""

_OUTCOMES = ("hit", "missed", "spurious", "split", "merged")  # as named in page.css


def write_report(
    result: Evaluation, out: PathLike, *, images: PathLike | None = None, pictures: int = 20
) -> None:
    """Write one HTML page about an evaluation; only the images that are shown are read again.

    Parameters
    ----------
    result : Evaluation
        From :func:`flowseg.evaluate`.
    out : path
        The HTML file.
    images : path, optional
        A folder of the images; without it cells are drawn on plain ground. Not needed where the
        truth is a folder that holds them.
    pictures : int
        Images shown, the worst first.

    Raises
    ------
    FlowsegError
        If `images` lacks an image that is to be shown, or `out` cannot be written.
    """
    out = ensure_writable_file(out)
    worst = result.worst_first()[:pictures]
    files = _image_files(result.truth, images, [image.image_id for image in worst])
    write_page(
        out,
        "evaluation.html.j2",
        title=f"Evaluation of {result.pred.name}",
        totals={
            "competition score": f"{result.score:.4f}",
            "images": f"{len(result.images):,}",
            **{name: f"{count:,}" for name, count in asdict(result.mistakes()).items()},
        },
        types=type_rows(result),
        missing=len(result.missing),
        missing_counted=result.missing_counted,
        charts=_charts(result),
        images=_linked(image_rows(result), len(worst)),
        outcomes=_OUTCOMES,
        worst=[
            _pair(image, files.get(image.image_id))
            for image in tqdm(worst, desc="drawing", unit="image", delay=1)
        ],
    )


def _image_files(truth: Path, images: PathLike | None, needed: Sequence[str]) -> dict[str, Path]:
    if images is not None:
        files = {path.stem: path for path in find_images(images)}
        lacking = [image_id for image_id in needed if image_id not in files]
        if lacking:
            raise FlowsegError(f"holds no image {lacking[0]!r}", file=images)
        return files
    if not truth.is_dir():
        return {}
    return {name: image for name, (image, _) in find_labels(truth).items() if image is not None}


def _linked(rows: Sequence[Row], pictures: int) -> list[Row]:
    """Rows whose first images link to their pictures."""
    link = Markup('<a href="#picture-{}">{}</a>')
    return [
        {**row, "image": link.format(rank, row["image"])} if rank < pictures else row
        for rank, row in enumerate(rows)
    ]


class _Objects(NamedTuple):
    """N objects of the truth, or of the prediction."""

    diameters: NDArray[np.float64]
    """(N,), in pixels."""
    crowding: NDArray[np.int64]
    """(N,), true objects whose centre lies within two mean diameters of this one's."""
    matched: NDArray[np.bool_]
    """(N, 10), whether it is matched at each threshold."""


def _objects(image: ImageResult, side: int) -> _Objects:
    """Of side 0, the truth, or side 1, the prediction."""
    truth, centres = image.centres[0], image.centres[side]
    areas = image.table.truth_areas, image.table.pred_areas
    crowding = np.zeros(len(centres), np.int64)
    if len(truth) and len(centres):
        radius = _NEIGHBOURHOOD * float(equivalent_diameter(areas[0]).mean())
        crowding += cKDTree(truth).query_ball_point(centres, radius, return_length=True)
    matched = np.zeros((len(centres), len(THRESHOLDS)), np.bool_)
    for k, percent in enumerate(THRESHOLDS):
        matched[image.table.matches(percent)[side], k] = True
    return _Objects(equivalent_diameter(areas[side]), crowding, matched)


def _charts(result: Evaluation) -> list[Chart]:
    parts = {name or "all": result.of_type(name) for name in result.cell_types}
    scores = {
        name: np.array([image.score for image in part.images]) for name, part in parts.items()
    }
    if len(parts) > 1:
        parts["all"] = result
    by_threshold = {
        name: [(t / 100, score) for t, score in zip(THRESHOLDS, part.precisions, strict=True)]
        for name, part in parts.items()
    }
    by_image = [[_objects(image, side) for image in result.images] for side in (0, 1)]
    truth, pred = (_Objects(*map(np.concatenate, zip(*side, strict=True))) for side in by_image)
    matched = truth.matched, pred.matched
    by_size = binned_precision(truth.diameters, pred.diameters, *matched)
    by_crowding = binned_precision(truth.crowding, pred.crowding, *matched)
    precision = "TP / (TP + FP + FN)"
    size = "diameter of the cell, pixels"
    crowding = f"cells within {_NEIGHBOURHOOD} mean diameters, itself included"
    return [
        line_chart("Score at each threshold", by_threshold, ("IoU greater than", precision)),
        distribution_chart("Scores of images", scores, "competition score of the image"),
        line_chart("Precision against size", by_size, (size, precision), log=True),
        line_chart("Precision against crowding", by_crowding, (crowding, precision)),
    ]


def binned_precision(
    truth: NDArray[np.floating] | NDArray[np.integer],
    pred: NDArray[np.floating] | NDArray[np.integer],
    truth_matched: NDArray[np.bool_],
    pred_matched: NDArray[np.bool_],
) -> dict[str, Points]:
    """TP / (TP + FP + FN) in bins of a measure of N true and M predicted objects.

    `truth` (N,) and `pred` (M,) are the measure, `truth_matched` (N, 10) and `pred_matched`
    (M, 10) whether each is matched at each threshold. Bins hold equal numbers of true objects. A
    point is the median of a bin and its precision, at an IoU of 0.50 and as the mean over all
    thresholds.
    """
    if not len(truth):
        return {}
    edges = np.unique(np.quantile(truth, np.linspace(0, 1, _BINS + 1))[1:-1])
    truth_bins, pred_bins = (np.searchsorted(edges, side, "right") for side in (truth, pred))
    at_half, mean = [], []
    for k in range(len(edges) + 1):
        inside = truth_bins == k
        if inside.any():
            tp, fn = truth_matched[inside].sum(axis=0), (~truth_matched[inside]).sum(axis=0)
            fp = (~pred_matched[pred_bins == k]).sum(axis=0)
            precision = tp / (tp + fn + fp)
            middle = float(np.median(truth[inside]))
            at_half.append((middle, float(precision[0])))
            mean.append((middle, float(precision.mean())))
    return {"IoU > 0.50": at_half, "mean of all thresholds": mean}


def _pair(image: ImageResult, file: Path | None) -> dict[str, object]:
    """Truth and prediction of an image, read again and drawn over it."""
    masks = image.masks()
    shape = masks[0].shape
    grey = np.full(shape, 0.1, np.float32)
    if file is not None:
        grey = normalize(to_grey(read_image(file)))
        if grey.shape != shape:
            raise size_differs(file, grey.shape, shape, "its truth")
    outcomes = image.table.outcomes()
    title = f"{image.image_id}: score {image.score:.3f}"
    sides = (
        ("truth", f"{image.counts.n_truth:,} cells", masks[0], outcomes.truth),
        ("prediction", f"{image.counts.n_pred:,} found", masks[1], outcomes.pred),
    )
    pictures = [
        picture(_coloured(grey, side, outcome), f"{name}: {count}", alt=f"{title}, {name}")
        for name, count, side, outcome in sides
    ]
    return {"title": title, "pictures": pictures}


def _coloured(
    grey: NDArray[np.float32], masks: Masks, outcomes: NDArray[np.int8]
) -> NDArray[np.uint8]:
    """Outlines in the colour of each object's outcome; all but hits are tinted as well."""
    labels = masks_to_labels(masks)
    palette = np.array([OUTCOME_COLOURS[k] for k in range(len(OUTCOME_COLOURS))], np.float32)
    colour = palette[np.concatenate([[HIT], outcomes])][labels]
    rgb = np.repeat(np.clip(grey, 0, 1)[:, :, None] * 255, 3, axis=2)
    mistake = np.concatenate([[False], outcomes != HIT])[labels]
    rgb[mistake] += 0.35 * (colour[mistake] - rgb[mistake])
    edge = outlines(labels)
    rgb[edge] = colour[edge]
    return rgb.astype(np.uint8)
