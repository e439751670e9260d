"""One row a cell: where it is and how it looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels
from flowseg.io.paths import PathLike
from flowseg.io.tables import write_table

__all__ = ["COLUMNS", "CellTable", "measure_cells"]

COLUMNS = (
    *("image", "cell_type", "cell", "area", "x", "y", "left", "top", "width", "height"),
    *("eccentricity", "cellprob", "score"),
)

Measures = dict[str, NDArray[Any]]


def measure_cells(labels: NDArray[np.integer[Any]]) -> Measures:
    """Size, place and shape of each cell, in order of their numbers.

    Parameters
    ----------
    labels : (H, W) integer

    Returns
    -------
    dict of (N,) arrays
        `cell`: its number. `area`: pixels. `x`, `y`: its centre of mass, in pixels; the centre of
        the first pixel is (0, 0). `left`, `top`, `width`, `height`: the box around it, in pixels.
        `eccentricity`: of the ellipse with the same second moments; 0 is a circle, near 1 a line.

    Examples
    --------
    >>> cells = measure_cells(np.array([[0, 1, 1, 1], [0, 0, 0, 5]]))
    >>> cells["area"].tolist(), cells["x"].tolist(), cells["width"].tolist()
    ([3, 1], [2.0, 3.0], [3, 1])
    >>> cells["eccentricity"].round(3).tolist()
    [0.943, 0.0]
    """
    labels = check_labels(labels)
    rows, columns = np.nonzero(labels)
    ids, owner, area = np.unique(labels[rows, columns], return_inverse=True, return_counts=True)
    count = len(ids)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(owner, values, count) / np.maximum(area, 1)

    y, x = mean(rows), mean(columns)
    dy, dx = rows - y[owner], columns - x[owner]
    # a pixel is a square: its own second moment is 1/12
    yy, xx, xy = mean(dy * dy) + 1 / 12, mean(dx * dx) + 1 / 12, mean(dy * dx)
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    eccentricity = np.sqrt(2 * spread / (xx + yy + spread))
    box = np.full((2, count), np.iinfo(np.int64).max), np.full((2, count), -1)
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(box[0][axis], owner, places)
        np.maximum.at(box[1][axis], owner, places)
    left, top = box[0]
    width, height = box[1] - box[0] + 1
    return {
        **{"cell": ids, "area": area, "x": x, "y": y, "left": left, "top": top},
        **{"width": width, "height": height, "eccentricity": eccentricity},
    }


class CellTable:
    """Collects the cells of images and writes one CSV with the columns `COLUMNS`.

    Lengths are in pixels; `cellprob` (the mean logit over the cell) and `score` are blank where
    they are not known.
    """

    def __init__(self) -> None:
        self._rows: list[list[object]] = []

    def add(
        self,
        image_id: str,
        labels: NDArray[np.integer[Any]],
        cell_type: str = "cell",
        cellprob: NDArray[np.floating[Any]] | None = None,
        scores: Sequence[float] | None = None,
    ) -> None:
        """Add the cells of one image.

        Parameters
        ----------
        image_id : str
        labels : (H, W) integer
        cell_type : str
        cellprob : (H, W) float, optional
        scores : sequence of float, optional
            Of each cell, in order of their numbers.
        """
        cells = measure_cells(labels)
        ids = cells["cell"]
        sure: NDArray[Any] | None = None
        if cellprob is not None:
            flat = np.asarray(labels).reshape(-1)
            owner = np.searchsorted(ids, flat[flat != 0])
            own = np.asarray(cellprob, np.float64).reshape(-1)[flat != 0]
            sure = np.bincount(owner, own, len(ids)) / np.maximum(cells["area"], 1)
        extra = [_texts(values, len(ids)) for values in (sure, scores)]
        own_columns = [
            [f"{v:.2f}" for v in cells[name]] if name in ("x", "y") else cells[name].tolist()
            for name in COLUMNS[2:10]
        ]
        shape = _texts(cells["eccentricity"], len(ids))
        for row in zip(*own_columns, shape, *extra, strict=True):
            self._rows.append([image_id, cell_type, *row])

    def write(self, path: PathLike) -> None:
        """Write the CSV, atomically."""
        import pandas as pd

        write_table(path, pd.DataFrame(self._rows, columns=COLUMNS))


def _texts(values: Any, count: int) -> list[str]:
    return [""] * count if values is None else [f"{float(value):.4f}" for value in values]
