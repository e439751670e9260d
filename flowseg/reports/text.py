"""An evaluation as text, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from flowseg.evaluation.evaluate import Evaluation, ImageResult, OtherMetrics
from flowseg.io.atomic import write_text
from flowseg.io.paths import PathLike
from flowseg.io.tables import write_table
from flowseg.metrics.competition import THRESHOLDS

Row = dict[str, object]


def text_table(
    rows: Iterable[Sequence[object]], header: Sequence[str] | None = None, *, left: int = 1
) -> str:
    """Rows as text in aligned columns, two spaces apart; the first `left` columns to the left.

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


def type_rows(result: Evaluation) -> list[Row]:
    """A row for each cell type and one for all images; objects are counted at an IoU of 0.50."""
    parts = [(name or "(unknown)", result.of_type(name)) for name in result.cell_types]
    rows: list[Row] = []
    for name, part in [*parts, ("all", result)]:
        tp, fp, fn = part.totals(0)
        row: Row = {"cell type": name, "images": len(part.images), "score": part.score}
        rows.append({**row, "TP": tp, "FP": fp, "FN": fn, **asdict(part.mistakes())})
    return rows


def image_rows(result: Evaluation) -> list[Row]:
    """A row for each image, the worst first; objects are counted at an IoU of 0.50."""
    return [
        {
            "image": image.image_id,
            "cell type": image.cell_type or None,
            "score": image.score,
            "truth": image.counts.n_truth,
            "found": image.counts.n_pred,
            "TP": image.counts.tp[0],
            "FP": image.counts.fp[0],
            "FN": image.counts.fn[0],
            **asdict(image.mistakes),
        }
        for image in result.worst_first()
    ]


def as_text(result: Evaluation, limit: int | None = 10) -> str:
    """The tables of an evaluation; of the images the `limit` worst, or all of them with None."""
    blocks = [
        f"competition score  {result.score:.4f}  (mean over {_images(len(result.images))})",
        f"objects at IoU > 0.50\n{_table(type_rows(result))}",
        _by_threshold(result),
        _by_image(result, limit),
    ]
    if result.other is not None:
        blocks.append(_other(result.other))
    if result.missing:
        blocks.append(_missing(result))
    return "\n\n".join(blocks)


def write_csv(result: Evaluation, path: PathLike) -> None:
    """Write one row for each image, the worst first.

    The columns `id`, `cell_type`, `score`, `truth` and `predicted` (objects), `tp_50 fp_50 fn_50`
    to `tp_95 fp_95 fn_95`, then `missed`, `spurious`, `split`, `merged` are stable.
    """
    rows: list[Row] = []
    for image in result.worst_first():
        counts = image.counts
        row = _image_summary(image)
        for k, percent in enumerate(THRESHOLDS):
            row |= {f"tp_{percent}": counts.tp[k], f"fp_{percent}": counts.fp[k]}
            row[f"fn_{percent}"] = counts.fn[k]
        rows.append({**row, **asdict(image.mistakes)})
    write_table(path, pd.DataFrame(rows))


def write_json(result: Evaluation, path: PathLike) -> None:
    """Write the scores and counts of all images together, per cell type and per image."""
    content: dict[str, Any] = {
        **_summary(result),
        "cell_types": {name: _summary(result.of_type(name)) for name in result.cell_types},
        "images": [
            {
                **_image_summary(image),
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


def _image_summary(image: ImageResult) -> Row:
    return {
        "id": image.image_id,
        "cell_type": image.cell_type,
        "score": image.score,
        "truth": image.counts.n_truth,
        "predicted": image.counts.n_pred,
    }


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
    rows = image_rows(result)
    title = "worst images first"
    if limit is not None and limit < len(rows):
        title += f" ({limit} of {len(rows)}; --all shows every one)"
    return f"{title}\n{_table(rows[:limit])}"


def _other(other: OtherMetrics) -> str:
    values = {
        "AP at IoU 0.5 as in the StarDist and Cellpose papers (pooled)": other.pooled_ap50,
        "aggregated Jaccard index (mean over images)": other.aggregated_jaccard,
    }
    if other.coco_mask is not None:
        values |= {
            "COCO mask AP, IoU 0.50 to 0.95, without confidence scores": other.coco_mask.ap,
            "COCO mask AP50": other.coco_mask.ap50,
            "COCO mask AP75": other.coco_mask.ap75,
        }
    rows: list[Row] = [{"metric": name, "value": value} for name, value in values.items()]
    return f"other metrics, none of them the competition's\n{_table(rows)}"


def _missing(result: Evaluation) -> str:
    names = ", ".join(result.missing[:5]) + (", ..." if len(result.missing) > 5 else "")
    count = _images(len(result.missing))
    if result.missing_counted:
        return f"{count} of the truth not in the prediction, counted as empty: {names}"
    return (
        f"{count} of the truth not in the prediction, left out (--missing count counts them as "
        f"empty): {names}"
    )


def _table(rows: Sequence[Row]) -> str:
    cells = [
        [f"{v:.4f}" if isinstance(v, float) else "-" if v is None else v for v in row.values()]
        for row in rows
    ]
    return text_table(cells, list(rows[0]))


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"
