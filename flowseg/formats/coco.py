"""COCO's JSON of instance annotations, written; pycocotools and CVAT open it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg._version import __version__
from flowseg.arrays.labels import check_labels
from flowseg.arrays.rle import Masks
from flowseg.io.atomic import write_text
from flowseg.io.paths import PathLike


def coco_image(
    file_name: str,
    labels: NDArray[np.integer[Any]],
    *,
    cell_type: str = "cell",
    scores: NDArray[np.floating[Any]] | None = None,
) -> dict[str, Any]:
    """One image and its cells, ids ascending, as `write_coco` takes them.

    Masks are COCO's run lengths (down columns), exact to the pixel, with their holes. The cell type
    becomes the category; (N,) scores are the cells' confidence. All values are plain, for JSON.

    Examples
    --------
    >>> image = coco_image("a.png", np.array([[0, 1], [2, 1]]), cell_type="neuron")
    >>> [cell["segmentation"]["counts"] for cell in image["annotations"]]
    [[2, 2], [1, 1, 2]]
    """
    labels = check_labels(labels)
    height, width = labels.shape
    # transposed, so that runs go down columns
    masks = Masks.from_labels(np.ascontiguousarray(labels.T))
    annotations = []
    for index in range(len(masks)):
        runs = slice(masks.offsets[index], masks.offsets[index + 1])
        starts, lengths = masks.starts[runs], masks.lengths[runs]
        counts = _encode_runs(starts, lengths, labels.size)
        annotation = {
            "segmentation": {"size": [height, width], "counts": counts},
            "bbox": _bounding_box(starts, lengths, height),
            "area": int(lengths.sum()),
            "iscrowd": 0,
        }
        if scores is not None:
            annotation["score"] = round(float(scores[index]), 4)
        annotations.append(annotation)
    image = {"file_name": file_name, "width": width, "height": height}
    return {"image": image, "category": cell_type, "annotations": annotations}


def write_coco(path: PathLike, images: Iterable[Mapping[str, Any]]) -> None:
    """Write images of `coco_image` as one COCO file, atomically, ids in their order."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for key, image in enumerate(images, start=1):
        category = categories.setdefault(image["category"], len(categories) + 1)
        entries.append({"id": key, **image["image"]})
        for cell in image["annotations"]:
            ids = {"id": len(annotations) + 1, "image_id": key, "category_id": category}
            annotations.append({**ids, **cell})
    content = {
        "info": {"description": f"written by flowseg {__version__}"},
        "licenses": [],
        "images": entries,
        "categories": [{"id": key, "name": name} for name, key in categories.items()],
        "annotations": annotations,
    }
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n")


def _encode_runs(starts: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> list[int]:
    """Lengths outside, inside, outside ... by turns; a last one of 0 is left out."""
    ends = starts + lengths
    gaps = starts - np.concatenate([[0], ends[:-1]])
    counts = np.stack([gaps, lengths], axis=1).reshape(-1)
    rest = size - int(ends[-1])
    return [*counts.tolist(), rest] if rest else counts.tolist()


def _bounding_box(starts: NDArray[np.int64], lengths: NDArray[np.int64], height: int) -> list[int]:
    """x, y, width, height; a run that goes on in the next column spans the image's height."""
    last = starts + lengths - 1
    left, right = int(starts[0] // height), int(last[-1] // height)
    wraps = bool((starts // height != last // height).any())
    top = 0 if wraps else int((starts % height).min())
    bottom = height - 1 if wraps else int((last % height).max())
    return [left, top, right - left + 1, bottom - top + 1]
