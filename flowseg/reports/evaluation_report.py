"""The report on a prediction: how good, where not, and what the mistakes look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from tqdm import tqdm

from flowseg.arrays.intensity import normalize, to_grey
from flowseg.arrays.labels import equivalent_diameter, outlines
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.arrays.rle import Masks
from flowseg.data.folder import find_labels
from flowseg.errors import FlowsegError
from flowseg.evaluation.evaluate import Evaluation, ImageResult
from flowseg.evaluation.sources import Source, read_predictions, read_truth
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.images import read_image
from flowseg.io.paths import PathLike, find_images
from flowseg.metrics.competition import (
    HIT,
    MERGED,
    MISSED,
    SPLIT,
    SPURIOUS,
    THRESHOLDS,
    Contingency,
    compare,
)
from flowseg.reports.charts import curves, distribution, key
from flowseg.reports.html import Html, data_table, picture, section, tag, write_page

__all__ = ["write_report"]

_BINS = 10
_NEAR = 2  # mean diameters; how far a neighbour may be

_COLOURS = {  # as in the page's style
    HIT: (79, 174, 142),
    MISSED: (232, 52, 68),
    SPURIOUS: (48, 130, 245),
    SPLIT: (236, 164, 16),
    MERGED: (186, 85, 220),
}
_NAMES = ("hit", "missed", "spurious", "split", "merged")


def write_report(
    result: Evaluation,
    truth: PathLike,
    pred: PathLike,
    out: PathLike,
    *,
    images: PathLike | None = None,
    pictures: int = 20,
) -> None:
    """Write one HTML file about an evaluation.

    Parameters
    ----------
    result : Evaluation
        Of `truth` and `pred`, from :func:`flowseg.evaluation.evaluate.evaluate`.
    truth, pred : path
        As evaluated.
    out : path
        The HTML file.
    images : path, optional
        A folder of the images; without it cells are drawn on plain ground. Not needed where
        `truth` is a folder that holds them.
    pictures : int
        Images shown, the worst first.

    Raises
    ------
    FlowsegError
        If `images` lacks an image that is to be shown, or `out` cannot be written.
    """
    out = Path(out)
    ensure_writable_folder(out.parent)
    if out.is_dir():
        raise FlowsegError("is a folder", file=out, remedy="name an .html file")
    known = read_truth(truth)
    found = read_predictions(pred, known)
    worst = result.worst_first()[:pictures]
    files = _image_files(truth, images, [image.image_id for image in worst])
    objects, figures = [], {}
    shown = {image.image_id: place for place, image in enumerate(worst)}
    for image in tqdm(result.images, desc="report", unit="image", delay=1):
        sides = _sides(known[image.image_id], found.get(image.image_id))
        table = compare(*sides)
        objects.append(_Objects.of(sides, table))
        if image.image_id in shown:
            place, file = shown[image.image_id], files.get(image.image_id)
            figures[image.image_id] = _pair(place, image, sides, table, file)
    sections = [
        _overview(result),
        _plots(result, objects),
        _images(result, shown),
        _worst([figures[image.image_id] for image in worst], len(result.images)),
    ]
    write_page(out, f"Evaluation of {Path(pred).name}", sections)


def _image_files(
    truth: PathLike, images: PathLike | None, needed: Sequence[str]
) -> dict[str, Path]:
    if images is not None:
        files = {path.stem: path for path in find_images(images)}
        lacking = [image_id for image_id in needed if image_id not in files]
        if lacking:
            raise FlowsegError(f"holds no image {lacking[0]!r}", file=images)
        return files
    if not Path(truth).is_dir():
        return {}
    return {name: image for name, (image, _) in find_labels(truth).items() if image is not None}


def _sides(truth: Source, pred: Source | None) -> tuple[Masks, Masks]:
    """Truth and prediction without their empty masks, so that positions are the table's."""
    nothing = Masks.from_dense([], truth.shape)
    a, b = truth.masks(), nothing if pred is None else pred.masks()
    return a.select(a.areas() > 0), b.select(b.areas() > 0)


@dataclass(frozen=True, eq=False)
class _Objects:
    """Truths and predictions of an image: (N,) and (M,) of each.

    Attributes
    ----------
    diameters : of the disks as large, in pixels.
    crowding : truths whose centre is within `_NEAR` mean diameters.
    hits : (., 10) bool, at each threshold.
    """

    diameters: tuple[NDArray[np.float64], NDArray[np.float64]]
    crowding: tuple[NDArray[np.int64], NDArray[np.int64]]
    hits: tuple[NDArray[np.bool_], NDArray[np.bool_]]

    @classmethod
    def of(cls, sides: tuple[Masks, Masks], table: Contingency) -> _Objects:
        hits = tuple(np.zeros((len(side), len(THRESHOLDS)), dtype=np.bool_) for side in sides)
        for place, percent in enumerate(THRESHOLDS):
            for side, matched in zip(hits, table.matches(percent), strict=True):
                side[matched, place] = True
        diameters = tuple(equivalent_diameter(side.areas()) for side in sides)
        centres = tuple(map(_centres, sides))
        tree = cKDTree(centres[0]) if len(centres[0]) else None
        radius = _NEAR * float(diameters[0].mean()) if tree is not None else 0.0
        crowding = tuple(
            np.zeros(len(places), dtype=np.int64)
            if tree is None or not len(places)
            else np.asarray(tree.query_ball_point(places, radius, return_length=True), np.int64)
            for places in centres
        )
        return cls(*((pair[0], pair[1]) for pair in (diameters, crowding, hits)))  # type: ignore[arg-type]


def _centres(masks: Masks) -> NDArray[np.float64]:
    """Centres of mass (y, x); of a run that goes on in the next row the first row counts."""
    owner = np.repeat(np.arange(len(masks)), np.diff(masks.offsets))
    rows, columns = np.divmod(masks.starts, masks.shape[1])
    middles = rows, columns + (masks.lengths - 1) / 2
    sums = [np.bincount(owner, places * masks.lengths, len(masks)) for places in middles]
    return np.stack(sums, axis=1) / masks.areas()[:, None]


def _overview(result: Evaluation) -> Html:
    mistakes = result.mistakes()
    as_user_error: dict[str, str] = {
        "competition score": f"{result.score:.4f}",
        "images": f"{len(result.images):,}",
        **{name: f"{getattr(mistakes, name):,}" for name in _NAMES[1:]},
    }
    boxes = [tag("div", tag("b", value), name) for name, value in as_user_error.items()]
    rows = []
    parts = [(name or "(not told)", result.of_type(name)) for name in result.cell_types]
    for name, part in [*parts, ("all", result)]:
        tp, fp, fn = part.totals(0)
        wrong = part.mistakes()
        rows.append(
            {
                **{"cell type": name, "images": len(part.images), "score": part.score},
                **{"TP": tp, "FP": fp, "FN": fn},
                **{kind: getattr(wrong, kind) for kind in _NAMES[1:]},
            }
        )
    note = "TP, FP, FN and the kinds of mistakes are at an IoU of 0.50."
    if result.missing:
        treated = "counted as empty" if result.missing_counted else "left out"
        note += f" {len(result.missing)} images of the truth have no prediction: {treated}."
    facts = tag("div", *boxes, class_="facts")
    return section("Overview", facts, data_table(rows), note=note)


def _plots(result: Evaluation, objects: Sequence[_Objects]) -> Html:
    parts = {name or "all": result.of_type(name) for name in result.cell_types}
    if len(parts) > 1:
        parts["all"] = result
    by_threshold = {
        name: [(t / 100, score) for t, score in zip(THRESHOLDS, part.precisions, strict=True)]
        for name, part in parts.items()
    }
    scores = {
        name: np.array([image.score for image in part.images])
        for name, part in parts.items()
        if name != "all" or len(parts) == 1
    }
    sizes = [o.diameters for o in objects], "diameter of the cell, pixels"
    crowds = [o.crowding for o in objects], f"cells within {_NEAR} mean diameters, itself included"
    hits = [o.hits for o in objects]
    precision = "TP / (TP + FP + FN)"
    charts = [
        curves("Score at each threshold", by_threshold, ("IoU greater than", precision)),
        distribution("Scores of images", scores, "competition score of the image"),
        curves("Precision against size", _binned(sizes[0], hits), (sizes[1], precision), log=True),
        curves("Precision against crowding", _binned(crowds[0], hits), (crowds[1], precision)),
    ]
    note = (
        "Size and crowding: objects of all images in bins of equal count; misses are counted "
        "where the true cell is, spurious ones where the found one is."
    )
    return section("Score", tag("div", *charts, class_="charts"), note=note)


def _binned(
    measures: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    hits: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]],
) -> dict[str, list[tuple[float, float]]]:
    """TP / (TP + FP + FN) in bins of a measure: at an IoU of 0.50, and its mean over all."""
    truth, pred = (np.concatenate([m[side] for m in measures]) for side in (0, 1))
    hit, used = (np.concatenate([h[side] for h in hits]) for side in (0, 1))
    if not len(truth):
        return {}
    edges = np.unique(np.quantile(truth, np.linspace(0, 1, _BINS + 1))[1:-1])
    bins = np.searchsorted(edges, truth, "right"), np.searchsorted(edges, pred, "right")
    lines: dict[str, list[tuple[float, float]]] = {"IoU > 0.50": [], "mean of all thresholds": []}
    for place in range(len(edges) + 1):
        own = bins[0] == place
        if not own.any():
            continue
        tp, fn = hit[own].sum(axis=0), (~hit[own]).sum(axis=0)
        precision = tp / (tp + fn + (~used[bins[1] == place]).sum(axis=0))
        middle = float(np.median(truth[own]))
        lines["IoU > 0.50"].append((middle, float(precision[0])))
        lines["mean of all thresholds"].append((middle, float(precision.mean())))
    return lines


def _worst(figures: Sequence[Html], count: int) -> Html:
    note = (
        f"{len(figures)} of {count} images, the worst first. Left the truth, right what was found, "
        "coloured by what became of each cell at an IoU of 0.50."
    )
    names = key(_NAMES, _NAMES)
    return section("Worst images", names, tag("div", *figures, class_="pairs"), note=note)


def _images(result: Evaluation, shown: dict[str, int]) -> Html:
    rows = []
    for image in result.worst_first():
        counts, place = image.counts, shown.get(image.image_id)
        name = image.image_id
        linked = name if place is None else tag("a", name, href=f"#picture-{place}")
        tp, fp, fn = counts.tp[0], counts.fp[0], counts.fn[0]
        rows.append(
            {
                **{"image": linked, "cell type": image.cell_type or None, "score": image.score},
                **{"truth": counts.n_truth, "found": counts.n_pred, "TP": tp, "FP": fp, "FN": fn},
                **{kind: getattr(image.mistakes, kind) for kind in _NAMES[1:]},
            }
        )
    note = "Click the name of a column to sort by it; type a part of a name to see only those."
    return section("All images", data_table(rows, search=True), note=note)


def _pair(
    place: int,
    image: ImageResult,
    sides: tuple[Masks, Masks],
    table: Contingency,
    file: Path | None,
) -> Html:
    """Truth and prediction of the image at `place` of the worst, side by side."""
    shape = sides[0].shape
    grey = np.full(shape, 0.1, np.float32)
    if file is not None:
        grey = normalize(to_grey(read_image(file)))
        if grey.shape != shape:
            raise FlowsegError(
                f"is {grey.shape[1]} x {grey.shape[0]} pixels, its truth {shape[1]} x {shape[0]}",
                file=file,
            )
    kinds = table.kinds()
    said = f"{image.image_id}: score {image.score:.3f}"
    counts = image.counts
    ends = f"{counts.n_truth:,} cells", f"{counts.n_pred:,} found"
    parts = [
        tag(
            "figure",
            picture(_coloured(grey, masks, kind), f"{said}, {name}"),
            tag("figcaption", f"{name}: {end}"),
        )
        for masks, kind, name, end in zip(
            sides, (kinds.truth, kinds.pred), ("truth", "prediction"), ends, strict=True
        )
    ]
    return tag("div", tag("h3", said, id=f"picture-{place}"), tag("div", *parts, class_="pair"))


def _coloured(
    grey: NDArray[np.float32], masks: Masks, kinds: NDArray[np.int8]
) -> NDArray[np.uint8]:
    """Outlines in the colour of their kind; what is no hit is tinted as well."""
    labels = masks_to_labels(masks)
    palette = np.array([_COLOURS[kind] for kind in range(len(_COLOURS))], np.float32)
    colour = palette[np.concatenate([[HIT], kinds])][labels]
    shown = np.repeat(np.clip(grey, 0, 1)[:, :, None] * 255, 3, axis=2)
    wrong = np.concatenate([[False], kinds != HIT])[labels]
    shown[wrong] += 0.35 * (colour[wrong] - shown[wrong])
    edge = outlines(labels)
    shown[edge] = colour[edge]
    return shown.astype(np.uint8)
