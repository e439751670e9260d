"""COCO's JSON, as pycocotools and CVAT open it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg._version import __version__
from flowseg.arrays.labels import check_labels
from flowseg.arrays.rle import Masks
from flowseg.io.atomic import write_text
from flowseg.io.paths import PathLike

__all__ = ["CocoDataset"]


class CocoDataset:
    """Collects the cells of images and writes one COCO file.

    Masks are COCO's run lengths (down columns), exact to the pixel and holes kept.

    Examples
    --------
    >>> dataset = CocoDataset()
    >>> dataset.add("a.png", np.array([[0, 1], [2, 1]]), "neuron")
    >>> [cell["segmentation"]["counts"] for cell in dataset.content()["annotations"]]
    [[2, 2], [1, 1, 2]]
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._cells: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(
        self,
        file_name: str,
        labels: NDArray[np.integer[Any]],
        cell_type: str = "cell",
        scores: Sequence[float] | None = None,
    ) -> None:
        """Add the cells of one image, in order of their numbers.

        Parameters
        ----------
        file_name : str
            Of the image.
        labels : (H, W) integer
        cell_type : str
            Becomes the category.
        scores : sequence of float, optional
            How sure each cell is.
        """
        labels = check_labels(labels)
        height, width = labels.shape
        image = len(self._images) + 1
        category = self._categories.setdefault(cell_type, len(self._categories) + 1)
        self._images.append({"id": image, "file_name": file_name, "width": width, "height": height})
        # turned, so that runs go down columns
        masks = Masks.from_labels(np.ascontiguousarray(labels.T))
        sure = [None] * len(masks) if scores is None else scores
        for index, score in zip(range(len(masks)), sure, strict=True):
            runs = slice(masks.offsets[index], masks.offsets[index + 1])
            starts, lengths = masks.starts[runs], masks.lengths[runs]
            cell = {
                "id": len(self._cells) + 1,
                "image_id": image,
                "category_id": category,
                "segmentation": {
                    "size": [height, width],
                    "counts": _counts(starts, lengths, labels.size),
                },
                "bbox": _box(starts, lengths, height),
                "area": int(lengths.sum()),
                "iscrowd": 0,
            }
            self._cells.append(cell if score is None else cell | {"score": round(float(score), 4)})

    def content(self) -> dict[str, Any]:
        """The whole data set as it is written."""
        return {
            "info": {"description": f"written by flowseg {__version__}"},
            "licenses": [],
            "images": self._images,
            "categories": [{"id": key, "name": name} for name, key in self._categories.items()],
            "annotations": self._cells,
        }

    def write(self, path: PathLike) -> None:
        """Write the file, atomically."""
        write_text(path, json.dumps(self.content(), separators=(",", ":")) + "\n")


def _counts(starts: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> list[int]:
    """Outside, inside, outside ... in turns; the last stretch outside may be left out."""
    ends = starts + lengths
    gaps = starts - np.concatenate([[0], ends[:-1]])
    counts = np.stack([gaps, lengths], axis=1).reshape(-1)
    rest = size - int(ends[-1])
    return [*counts.tolist(), rest] if rest else counts.tolist()


def _box(starts: NDArray[np.int64], lengths: NDArray[np.int64], height: int) -> list[int]:
    """x, y, width, height; a run that goes on in the next column spans the image's height."""
    last = starts + lengths - 1
    left, right = int(starts[0] // height), int(last[-1] // height)
    wraps = bool((starts // height != last // height).any())
    top = 0 if wraps else int((starts % height).min())
    bottom = height - 1 if wraps else int((last % height).max())
    return [left, top, right - left + 1, bottom - top + 1]
