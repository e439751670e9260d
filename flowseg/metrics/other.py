"""Metrics of other papers, none of them the competition's; see `competition` for that.

Each name says what it is, since "AP" alone means a different number in each community.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flowseg.arrays.rle import Masks
from flowseg.errors import require
from flowseg.metrics.competition import Contingency, Counts


def pooled_precision(counts: Iterable[Counts]) -> float:
    """TP / (TP + FP + FN) at the first threshold, the counts of all images summed before.

    What the StarDist and Cellpose papers call "AP at 0.5" (accuracy is another name). With
    counts from ``Contingency.counts((50,), inclusive=True)``, IoU equal to the threshold counts
    as a hit, as it does in both programs. Cellpose's function gives the number of each image; the
    mean of those is another number again. 1 where no image holds anything.

    Examples
    --------
    >>> pooled_precision([Counts(3, 3, (3,)), Counts(1, 1, (0,))])
    0.6
    """
    hits = total = 0
    for count in counts:
        hits += count.tp[0]
        total += count.n_truth + count.n_pred - count.tp[0]
    return hits / total if total else 1.0


def aggregated_jaccard(table: Contingency) -> float:
    """The aggregated Jaccard index (AJI) of one image; 1 where neither side holds anything.

    Each truth takes the prediction with which its IoU is largest (the first of equals), however
    often that is taken. The sum of the intersections over the sum of the unions, to which the
    areas of truths without a partner and of predictions never taken are added.

    Notes
    -----
    Formula: Kumar et al. 2017, "A dataset and a technique for generalized nuclear segmentation
    for computational pathology", IEEE TMI 36(7), algorithm 1.
    """
    unions = table.unions()
    # per truth the largest IoU, then the first prediction
    order = np.lexsort((table.pred, -table.shared / unions, table.truth))
    chosen = order[np.unique(table.truth[order], return_index=True)[1]]
    unmatched = np.ones(len(table.truth_areas), dtype=np.bool_)
    unmatched[table.truth[chosen]] = False
    unused = np.ones(len(table.pred_areas), dtype=np.bool_)
    unused[table.pred[chosen]] = False
    intersection = int(table.shared[chosen].sum())
    union = int(unions[chosen].sum())
    union += int(table.truth_areas[unmatched].sum() + table.pred_areas[unused].sum())
    return intersection / union if union else 1.0


@dataclass(frozen=True)
class CocoPrecision:
    """COCO's mask average precision over a set of images: over IoU 0.50 to 0.95, and at one IoU."""

    ap: float
    ap50: float
    ap75: float


def coco_mask_precision(pairs: Sequence[tuple[Masks, Masks]]) -> CocoPrecision:
    """COCO mask AP of one class, by pycocotools (``pip install flowseg[coco]``).

    A pair is truth and prediction of one image. A submission holds no confidences: all are equal,
    and AP is close to precision times recall.

    Raises FlowsegError if pycocotools is not installed.
    """
    coco = require("pycocotools.coco", "coco")
    cocoeval = require("pycocotools.cocoeval", "coco")
    truths: list[dict[str, object]] = []
    found: list[dict[str, object]] = []
    for image, (truth, pred) in enumerate(pairs, start=1):
        truths += [
            {"id": len(truths) + k + 1, "iscrowd": 0, **cell}
            for k, cell in enumerate(_cells(image, truth))
        ]
        found += [{"score": 1.0, **cell} for cell in _cells(image, pred)]
    if not truths or not found:
        return CocoPrecision(*(float("nan") if not truths else 0.0,) * 3)
    # pycocotools prints as it goes
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "images": [
                {"id": image, "height": truth.shape[0], "width": truth.shape[1]}
                for image, (truth, _) in enumerate(pairs, start=1)
            ],
            "categories": [{"id": 1}],
            "annotations": truths,
        }
        reference.createIndex()
        run = cocoeval.COCOeval(reference, reference.loadRes(found), "segm")
        run.params.maxDets = [2000]  # as for LIVECell; many images hold more than COCO's 100
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, 0, 0, 0]
    return CocoPrecision(*(float(part.mean()) for part in (precision, precision[0], precision[5])))


def _cells(image: int, masks: Masks) -> list[dict[str, object]]:
    """COCO annotations; their run lengths go down columns."""
    from pycocotools import mask as coco

    cells = []
    for index, area in enumerate(masks.areas().tolist()):
        runs = coco.encode(np.asfortranarray(masks.dense(index).view(np.uint8)))
        cells.append(
            {
                "image_id": image,
                "category_id": 1,
                "segmentation": runs,
                "area": area,
                "bbox": coco.toBbox(runs).tolist(),
            }
        )
    return cells
