"""GeoJSON of the cells' outlines, as QuPath imports it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import connected_components
from flowseg.arrays.labels import check_labels
from flowseg.formats.imagej import outline_rings
from flowseg.io.atomic import write_text
from flowseg.io.paths import PathLike


def write_geojson(
    path: PathLike,
    labels: NDArray[np.integer[Any]],
    *,
    cell_type: str = "cell",
    scores: NDArray[np.floating[Any]] | None = None,
) -> None:
    """Write the cells of an image as detections: their outlines in pixels, exact to the pixel.

    Parameters
    ----------
    path : path
    labels : (H, W) integer
    cell_type : str
        Becomes their class.
    scores : (N,) float, optional
        Confidence of each cell, ids ascending; becomes a measurement.
    """
    labels = check_labels(labels)
    pieces: dict[int, list[Any]] = {}
    # Pieces that touch at a corner are polygons of their own: a ring must not cross itself.
    components = connected_components(labels, False).astype(np.int32)
    owner = np.zeros(int(components.max(initial=0)) + 1, np.int32)
    owner[components] = labels
    for component, rings in outline_rings(components):
        closed = [[*ring.tolist(), ring[0].tolist()] for ring in rings]
        closed.sort(key=_extent, reverse=True)  # the outer ring, then the holes
        pieces.setdefault(int(owner[component]), []).append(closed)
    features = []
    for index, (cell, polygons) in enumerate(sorted(pieces.items())):
        alone = len(polygons) == 1
        geometry = {
            "type": "Polygon" if alone else "MultiPolygon",
            "coordinates": polygons[0] if alone else polygons,
        }
        properties: dict[str, Any] = {
            "objectType": "detection",
            "name": str(cell),
            "classification": {"name": cell_type},
        }
        if scores is not None:
            properties["measurements"] = {"score": round(float(scores[index]), 4)}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    text = json.dumps({"type": "FeatureCollection", "features": features})
    write_text(path, text + "\n")


def _extent(ring: list[list[int]]) -> int:
    """Twice the area inside a ring."""
    x, y = np.array(ring).T
    return abs(int((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()))
