"""The cell table: a CSV with one row a cell, its position, size and shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import fastremap
import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.intensity import to_grey
from flowseg.arrays.labels import check_labels
from flowseg.io.paths import PathLike
from flowseg.io.physical import PixelSize
from flowseg.io.tables import write_table

COLUMNS = (
    *("image", "cell_type", "cell", "area", "x", "y", "left", "top", "width", "height"),
    *("eccentricity", "area_um2", "cellprob", "score"),
    *("intensity_mean", "intensity_min", "intensity_max", "intensity_std"),
)

Measures = dict[str, NDArray[Any]]


def measure_cells(labels: NDArray[np.integer[Any]]) -> Measures:
    """Position, size and shape of each cell, ids ascending: (N,) arrays by column.

    `cell` is its id, `area` its pixels, `x` and `y` its centroid in pixels (the centre of the first
    pixel is (0, 0)), `left`, `top`, `width`, `height` its bounding box in pixels. `eccentricity` is
    that of the ellipse with the same second moments: 0 is a circle, near 1 a line.

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
    ids, owner, area = fastremap.unique(
        labels[rows, columns], return_inverse=True, return_counts=True
    )
    owner = owner.astype(np.int64)  # of no cell at all it is unsigned
    count = len(ids)

    def mean(values: NDArray[Any]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = np.bincount(owner, values, count) / np.maximum(area, 1)
        return means

    y, x = mean(rows), mean(columns)
    dy, dx = rows - y[owner], columns - x[owner]
    # a pixel is a square: its own second moment is 1/12
    yy, xx, xy = mean(dy * dy) + 1 / 12, mean(dx * dx) + 1 / 12, mean(dy * dx)
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy**2)
    eccentricity = np.sqrt(2 * spread / (xx + yy + spread))
    box = np.full((2, count), np.iinfo(np.int64).max), np.full((2, count), -1)
    for axis, positions in enumerate((columns, rows)):
        np.minimum.at(box[0][axis], owner, positions)
        np.maximum.at(box[1][axis], owner, positions)
    left, top = box[0]
    width, height = box[1] - box[0] + 1
    return {
        **{"cell": ids, "area": area, "x": x, "y": y, "left": left, "top": top},
        **{"width": width, "height": height, "eccentricity": eccentricity},
    }


def cell_rows(
    image_id: str,
    labels: NDArray[np.integer[Any]],
    *,
    cell_type: str = "cell",
    cellprob: NDArray[np.floating[Any]] | None = None,
    scores: NDArray[np.floating[Any]] | None = None,
    pixel_size: PixelSize | None = None,
    image: NDArray[Any] | None = None,
) -> list[list[Any]]:
    """The rows of one image, in the order of `COLUMNS`.

    The column cellprob is the mean of the (H, W) logits over each cell, score its confidence of
    the (N,), area_um2 its area where the image's file says how large a pixel is, intensities those
    of the image, (H, W) or (H, W, C), as stored and as grey; else blank.
    """
    cells = measure_cells(labels)
    means: NDArray[Any] | None = None
    if cellprob is not None:
        inside = np.asarray(labels) != 0
        owner = np.searchsorted(cells["cell"], np.asarray(labels)[inside])
        logits = np.asarray(cellprob, np.float64)[inside]
        means = np.bincount(owner, logits, len(cells["cell"])) / np.maximum(cells["area"], 1)
    count = len(cells["cell"])
    columns = [
        [f"{value:.2f}" for value in cells[name]] if name in ("x", "y") else cells[name].tolist()
        for name in COLUMNS[2:10]
    ]
    areas = None if pixel_size is None else cells["area"] * pixel_size.y * pixel_size.x
    columns += [_as_text(v, count) for v in (cells["eccentricity"], areas, means, scores)]
    columns += [_as_text(values, count) for values in _intensities(labels, image, count)]
    return [[image_id, cell_type, *row] for row in zip(*columns, strict=True)]


def _intensities(
    labels: NDArray[np.integer[Any]], image: NDArray[Any] | None, count: int
) -> tuple[NDArray[Any] | None, ...]:
    """Mean, least, largest and standard deviation of the grey values of each cell."""
    if image is None:
        return None, None, None, None
    from scipy import ndimage

    if count == 0:
        return (np.zeros(0),) * 4
    inside = np.asarray(labels) != 0
    grey, owners = to_grey(image)[inside].astype(np.float64), np.asarray(labels)[inside]
    owners = np.searchsorted(fastremap.unique(owners), owners)
    measures = (ndimage.mean, ndimage.minimum, ndimage.maximum, ndimage.standard_deviation)
    return tuple(np.asarray(measure(grey, owners, np.arange(count))) for measure in measures)


def write_cells(path: PathLike, images: Iterable[Iterable[Sequence[object]]]) -> None:
    """Write the `cell_rows` of images as a CSV, atomically."""
    import pandas as pd

    rows = [row for image in images for row in image]
    write_table(path, pd.DataFrame(rows, columns=COLUMNS))


def _as_text(values: Any, count: int) -> list[str]:
    return [""] * count if values is None else [f"{float(value):.4f}" for value in values]
