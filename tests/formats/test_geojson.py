"""GeoJSON of outlines: the polygons cover the very pixels of their cells."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

from flowseg.formats.geojson import write_geojson


def covered(polygons: list[list[list[list[int]]]], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre is inside, by the even-odd rule."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for ring in (ring for rings in polygons for ring in rings):
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            if x0 == x1:
                inside ^= (x < x0) & (y > min(y0, y1)) & (y < max(y0, y1))
    return inside


def test_outlines_cover_the_cells(tmp_path: Path) -> None:
    labels = np.zeros((9, 12), np.int32)
    labels[1:6, 1:6] = 7
    labels[3, 3] = 0  # a hole
    labels[6, 6] = labels[8, 0] = 7  # one piece at a corner, one apart
    labels[2:5, 8:11] = 3
    write_geojson(tmp_path / "a.geojson", labels, cell_type="neuron", scores=np.array([0.5, 1]))
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first["geometry"]["type"] == "Polygon"
    assert second["geometry"]["type"] == "MultiPolygon"
    assert len(second["geometry"]["coordinates"]) == 3
    assert len(second["geometry"]["coordinates"][0]) == 2  # the outer ring and the hole
    for feature, cell in ((first, 3), (second, 7)):
        coordinates = feature["geometry"]["coordinates"]
        polygons = [coordinates] if cell == 3 else coordinates
        assert all(ring[0] == ring[-1] for rings in polygons for ring in rings)
        assert np.array_equal(covered(polygons, labels.shape), labels == cell)
        assert feature["properties"]["name"] == str(cell)
        assert feature["properties"]["classification"] == {"name": "neuron"}
    assert first["properties"]["measurements"] == {"score": 0.5}


def test_no_cell(tmp_path: Path) -> None:
    write_geojson(tmp_path / "a.geojson", np.zeros((4, 4), int))
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []
