"""An evaluation as text, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from flowseg.evaluation.evaluate import Evaluation, OtherMetrics
from flowseg.io.atomic import write_text
from flowseg.io.paths import PathLike
from flowseg.io.tables import write_table
from flowseg.metrics.competition import THRESHOLDS

__all__ = ["as_text", "text_table", "write_csv", "write_json"]

_MISTAKES = ("missed", "spurious", "split", "merged")


def text_table(
    rows: Iterable[Sequence[object]], header: Sequence[str] | None = None, *, left: int = 1
) -> str:
    """Rows as text in aligned columns, two spaces apart.

    Parameters
    ----------
    rows : iterable of sequence
        Values of one row each, as many as there are columns.
    header : sequence of str, optional
        Names of the columns.
    left : int
        So many of the first columns are aligned to the left, the others to the right.

    Examples
    --------
    >>> print(text_table([["astro", 131], ["cort", 9]], ["cell type", "images"]))
    cell type  images
    astro         131
    cort            9
    """
    cells = [[str(value) for value in row] for row in ([header] if header else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def as_text(result: Evaluation, limit: int | None = 10) -> str:
    """A table to read; of the images the `limit` worst, or all of them with None."""
    blocks = [
        f"competition score  {result.score:.4f}  (mean over {_images(len(result.images))})",
        _by_type(result),
        _by_threshold(result),
        _by_image(result, limit),
    ]
    if result.other is not None:
        blocks.append(_other(result.other))
    if result.missing:
        blocks.append(_missing(result))
    return "\n\n".join(blocks)


def write_csv(result: Evaluation, path: PathLike) -> None:
    """One row an image, worst first; stable columns.

    `id`, `cell_type`, `score`, `truth` and `predicted` (objects), `tp_50 fp_50 fn_50` to
    `tp_95 fp_95 fn_95`, then `missed`, `spurious`, `split`, `merged`.
    """
    columns = ["id", "cell_type", "score", "truth", "predicted"]
    columns += [f"{name}_{percent}" for percent in THRESHOLDS for name in ("tp", "fp", "fn")]
    rows = []
    for image in result.worst_first():
        counts = image.counts
        numbers = [n for trio in zip(counts.tp, counts.fp, counts.fn, strict=True) for n in trio]
        mistakes = [getattr(image.mistakes, name) for name in _MISTAKES]
        first = [image.image_id, image.cell_type, repr(image.score), counts.n_truth, counts.n_pred]
        rows.append([*first, *numbers, *mistakes])
    write_table(path, pd.DataFrame(rows, columns=[*columns, *_MISTAKES]))


def write_json(result: Evaluation, path: PathLike) -> None:
    """Everything the evaluation holds, over all images, per cell type and per image."""
    content: dict[str, Any] = {
        **_summary(result),
        "cell_types": {name: _summary(result.of_type(name)) for name in result.cell_types},
        "images": [
            {
                "id": image.image_id,
                "cell_type": image.cell_type,
                "score": image.score,
                "truth": image.counts.n_truth,
                "predicted": image.counts.n_pred,
                "tp": image.counts.tp,
                "fp": image.counts.fp,
                "fn": image.counts.fn,
                **asdict(image.mistakes),
            }
            for image in result.worst_first()
        ],
        "missing": result.missing,
        "missing_counted": result.missing_counted,
    }
    if result.other is not None:
        content["not_the_competition_score"] = asdict(result.other)
    write_text(path, json.dumps(content, indent=1) + "\n")


def _summary(result: Evaluation) -> dict[str, Any]:
    thresholds = []
    for position, percent in enumerate(THRESHOLDS):
        tp, fp, fn = result.totals(position)
        mean = result.precisions[position]
        thresholds.append({"iou": percent / 100, "score": mean, "tp": tp, "fp": fp, "fn": fn})
    return {
        "score": result.score,
        "n_images": len(result.images),
        "thresholds": thresholds,
        **asdict(result.mistakes()),
    }


def _by_type(result: Evaluation) -> str:
    rows = []
    parts = [(name or "(not told)", result.of_type(name)) for name in result.cell_types]
    for name, part in [*parts, ("all", result)]:
        mistakes = part.mistakes()
        tp, fp, fn = part.totals(0)
        rows.append(
            [name, len(part.images), f"{part.score:.4f}", tp, fp, fn]
            + [getattr(mistakes, kind) for kind in _MISTAKES]
        )
    header = ["cell type", "images", "score", "TP", "FP", "FN", *_MISTAKES]
    return "objects at IoU > 0.50\n" + text_table(rows, header)


def _by_threshold(result: Evaluation) -> str:
    parts = [(name, result.of_type(name)) for name in result.cell_types if name]
    if len(parts) < 2:
        parts = []
    rows = []
    for position, percent in enumerate(THRESHOLDS):
        scores = [f"{part.precisions[position]:.4f}" for _, part in [("all", result), *parts]]
        rows.append([f"{percent / 100:.2f}", *scores, *result.totals(position)])
    return text_table(rows, ["IoU >", "score", *(name for name, _ in parts), "TP", "FP", "FN"])


def _by_image(result: Evaluation, limit: int | None) -> str:
    images = result.worst_first()
    shown = images if limit is None else images[:limit]
    rows = [
        [image.image_id, image.cell_type or "-", f"{image.score:.4f}"]
        + [image.counts.n_truth, image.counts.n_pred]
        + [counts[0] for counts in (image.counts.tp, image.counts.fp, image.counts.fn)]
        + [getattr(image.mistakes, kind) for kind in _MISTAKES]
        for image in shown
    ]
    header = ["image", "cell type", "score", "truth", "found", "TP", "FP", "FN", *_MISTAKES]
    title = "worst images first"
    if len(shown) < len(images):
        title += f" ({len(shown)} of {len(images)}; --all shows every one)"
    return f"{title}\n" + text_table(rows, header)


def _other(other: OtherMetrics) -> str:
    rows: list[list[object]] = [
        ["AP at IoU 0.5 as in the StarDist and Cellpose papers (pooled)", other.pooled_ap50],
        ["aggregated Jaccard index (mean over images)", other.aggregated_jaccard],
    ]
    if other.coco_mask is not None:
        rows += [
            ["COCO mask AP, IoU 0.50 to 0.95, all equally sure", other.coco_mask.ap],
            ["COCO mask AP50", other.coco_mask.ap50],
            ["COCO mask AP75", other.coco_mask.ap75],
        ]
    shown = [[name, f"{value:.4f}"] for name, value in rows]
    return "other metrics, none of them the competition's\n" + text_table(
        shown, ["metric", "value"]
    )


def _missing(result: Evaluation) -> str:
    names = ", ".join(result.missing[:5]) + (", ..." if len(result.missing) > 5 else "")
    count = _images(len(result.missing))
    if result.missing_counted:
        return f"{count} of the truth not in the prediction, counted as empty: {names}"
    return (
        f"{count} of the truth not in the prediction, left out (--missing count counts them as "
        f"empty): {names}"
    )


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"
