"""ImageJ's files: a zip with the outline of each cell, and label images with its metadata."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels
from flowseg.errors import require
from flowseg.io.atomic import atomic_path
from flowseg.io.images import write_labels
from flowseg.io.paths import PathLike
from flowseg.io.physical import PixelSize

Ring = NDArray[np.int64]


def write_rois(path: PathLike, labels: NDArray[np.integer[Any]]) -> None:
    """Write the outlines of all cells as a zip of ImageJ ROIs, named by the cells' ids.

    Outlines run along the edges of pixels, as ImageJ's wand traces them, so that ImageJ fills them
    to the very same pixels. A cell with holes, or of several components, becomes a composite.
    """
    roifile = require("roifile", "rois")
    labels = check_labels(labels)
    digits = max(4, len(str(labels.max(initial=0))))
    with atomic_path(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        for cell, rings in outline_rings(labels):
            name = f"{cell:0{digits}d}"
            # a fixed date, so that the same labels give the same bytes
            entry = zipfile.ZipInfo(f"{name}.roi", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, _roi(roifile, name, rings).tobytes())


def write_imagej_labels(
    path: PathLike, labels: NDArray[np.integer[Any]], pixel_size: PixelSize | None = None
) -> None:
    """Write labels as a TIFF that ImageJ shows from 0 to the highest id, and napari opens.

    ImageJ has no integers beyond 16 bits: with higher ids it becomes a plain TIFF of uint32.
    """
    import tifffile

    labels = check_labels(labels)
    top = int(labels.max(initial=0))
    if top > np.iinfo(np.uint16).max:
        write_labels(path, labels, pixel_size)
        return
    with atomic_path(path) as part:
        tifffile.imwrite(
            part,
            labels.astype(np.uint16),
            imagej=True,
            compression="zlib",
            metadata={
                "axes": "YX",
                "min": 0.0,
                "max": float(max(top, 1)),
                **({"unit": "um"} if pixel_size else {}),
            },
            resolution=(1 / pixel_size.x, 1 / pixel_size.y) if pixel_size else None,
        )


def outline_rings(labels: NDArray[np.int32]) -> Iterator[tuple[int, list[Ring]]]:
    """Each cell's id and outlines, along the edges of its pixels.

    These are closed rings of corners, (K, 2) x, y, holes included: a pixel is inside where its
    centre is, by the even-odd rule. Pixels that touch at a corner share a ring.

    Examples
    --------
    >>> [(cell, [r.tolist() for r in rings]) for cell, rings in outline_rings(np.array([[0, 3]]))]
    [(3, [[[1, 0], [2, 0], [2, 1], [1, 1]]])]
    """
    framed = np.pad(labels, 1)
    inner = framed[1:-1, 1:-1]
    width = labels.shape[1] + 1
    # each edge of a pixel goes around it clockwise: from which corner, and by how much
    sides = (
        (framed[:-2, 1:-1], 0, 1),
        (framed[1:-1, 2:], 1, width),
        (framed[2:, 1:-1], width + 1, -1),
        (framed[1:-1, :-2], width, -width),
    )
    cells, starts, steps = [], [], []
    for other, corner, step in sides:
        rows, columns = np.nonzero((inner != other) & (inner != 0))
        cells.append(inner[rows, columns])
        starts.append(rows * width + columns + corner)
        steps.append(np.full(len(rows), step))
    owner, start, move = (np.concatenate(part) for part in (cells, starts, steps))
    order = np.lexsort((start, owner))
    owner, start, move = owner[order], start[order], move[order]
    bounds = np.flatnonzero(np.diff(owner, prepend=0, append=0))
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        edges: dict[int, list[int]] = {}
        for corner, step in zip(start[first:last].tolist(), move[first:last].tolist(), strict=True):
            edges.setdefault(corner, []).append(step)
        yield int(owner[first]), list(_trace_rings(edges, width))


def _trace_rings(edges: dict[int, list[int]], width: int) -> Iterator[Ring]:
    """Closed rings of corners, straight stretches left out."""
    # at a corner where two pixels touch, turning left leads on to the other one
    left = {1: -width, -width: -1, -1: width, width: 1}
    while edges:
        corner, (step, *_) = next(iter(edges.items()))
        ring: list[int] = []
        previous = 0
        while corner in edges:
            steps = edges[corner]
            step = left[previous] if len(steps) > 1 and previous else steps[0]
            steps.remove(step)
            if not steps:
                del edges[corner]
            if step != previous:
                ring.append(corner)
            previous = step
            corner += step
        yield np.stack(np.divmod(np.array(ring), width)[::-1], axis=1)


def _roi(roifile: Any, name: str, rings: list[Ring]) -> Any:
    roi = roifile.ImagejRoi.frompoints(np.concatenate(rings), name=name)
    if len(rings) == 1:
        roi.roitype = roifile.ROI_TYPE.TRACED
        # a box around the corners, not around the pixels
        roi.right, roi.bottom = (int(side) for side in rings[0].max(axis=0))
        return roi
    path: list[float] = []
    for ring in rings:
        for index, (x, y) in enumerate(ring.tolist()):
            path += [1 if index else 0, x, y]
        path.append(4)  # close
    roi.roitype = roifile.ROI_TYPE.RECT
    roi.integer_coordinates, roi.n_coordinates = None, 0
    roi.right, roi.bottom = (int(side) for side in np.concatenate(rings).max(axis=0))
    roi.multi_coordinates = np.array(path, np.float32)
    roi.shape_roi_size = len(path)
    return roi
