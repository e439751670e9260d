"""Polygons to masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowseg.arrays.polygons import polygons_to_masks
from flowseg.errors import FlowsegError

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]


def test_a_rectangle_covers_its_pixels() -> None:
    masks = polygons_to_masks([SQUARE], [0], 1, (5, 6))
    expected = np.zeros((5, 6), bool)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(masks.dense(0), expected)


def test_either_way_round_and_closed_or_not() -> None:
    ways = [SQUARE, [1, 3, 4, 3, 4, 1, 1, 1], [*SQUARE, 1, 1]]
    masks = polygons_to_masks(ways, [0, 1, 2], 3, (5, 6))
    assert masks.areas().tolist() == [6, 6, 6]


def test_several_polygons_are_one_cell() -> None:
    other = [3, 2, 6, 2, 6, 4, 3, 4]  # overlaps the square in one pixel
    masks = polygons_to_masks([SQUARE, other, SQUARE], [1, 1, 0], 3, (5, 6))
    assert masks.areas().tolist() == [6, 11, 0]
    one, two = (
        polygons_to_masks([SQUARE], [0], 1, (5, 6)),
        polygons_to_masks([other], [0], 1, (5, 6)),
    )
    np.testing.assert_array_equal(masks.dense(1), one.dense(0) | two.dense(0))


def test_touching_rows_become_one_run() -> None:
    masks = polygons_to_masks([[0, 0, 6, 0, 6, 5, 0, 5]], [0], 1, (5, 6))
    assert masks.to_strings() == ["1 30"]


def test_what_is_outside_is_cut_off() -> None:
    masks = polygons_to_masks([[-9, -9, 900, -9, 900, 2, -9, 2]], [0], 1, (5, 6))
    assert masks.to_strings() == ["1 12"]
    masks = polygons_to_masks([[-9, -9, -2, -9, -2, 2, -9, 2]], [0], 1, (5, 6))
    assert masks.to_strings() == [""]


def test_nothing() -> None:
    assert len(polygons_to_masks([], [], 0, (5, 6))) == 0
    assert polygons_to_masks([], [], 2, (5, 6)).to_strings() == ["", ""]
    assert polygons_to_masks([[1, 1, 1, 1, 1, 1]], [0], 1, (5, 6)).to_strings() == [""]


@pytest.mark.parametrize(
    ("polygon", "problem"),
    [
        ([1, 2, 3, 4], "three pairs"),
        ([1, 2, 3, 4, 5], "three pairs"),
        ([1, 2, 3, 4, 5, 6, 7], "three pairs"),
        ([[1, 2], [3, 4], [5, 6]], "three pairs"),
        ([1, 2, 3, 4, 5, "x"], "not a number"),
        ([1, 2, 3, 4, 5, None], "finite"),
        ([1, 2, 3, 4, 5, [6]], "not a number"),
        ([1, 2, 3, 4, 5, float("nan")], "finite"),
        ([1, 2, 3, 4, 5, 1e300], "finite"),
        ([1, 2, 3, 4, 5, 10**400], "not a number"),
    ],
)
def test_bad_polygons(polygon: list[object], problem: str) -> None:
    with pytest.raises(FlowsegError, match=problem):
        polygons_to_masks([polygon], [0], 1, (5, 6))


def test_edges_without_end_take_no_memory() -> None:
    """A text of some kilobytes that would cross rows a thousand million times."""
    up_and_down = [0, 0, 3, 2.0**23] * 60
    with pytest.raises(FlowsegError, match="too many or too long edges"):
        polygons_to_masks([up_and_down], [0], 1, (2**24, 5))


@given(
    st.lists(st.floats(-5, 25).map(lambda v: round(v * 5) / 5), min_size=6, max_size=16).filter(
        lambda flat: len(flat) % 2 == 0
    )
)
def test_a_pixel_is_inside_if_its_centre_is(flat: list[float]) -> None:
    """Against a plain even-odd test of every pixel by itself."""
    mask = polygons_to_masks([flat], [0], 1, (20, 20)).dense(0)
    corners = np.reshape(flat, (-1, 2))
    for row in range(20):
        for column in range(20):
            x, y = column + 0.5, row + 0.55
            inside = False
            for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
                if (y0 < y) != (y1 < y):
                    cut = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                    if abs(cut - x) < 1e-9:
                        break  # on the line: either is right
                    inside ^= cut < x
            else:
                assert mask[row, column] == inside


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own
def test_close_to_pycocotools_on_real_cells(real_data: Path) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    path = real_data / "LIVECell_dataset_2021/annotations/LIVECell/livecell_coco_val.json"
    cells = [a["segmentation"] for a in json.loads(path.read_text())["annotations"]]
    ours = polygons_to_masks([c[0] for c in cells], range(len(cells)), len(cells), (520, 704))
    overlaps = []
    for index, cell in enumerate(cells):
        theirs = reference.decode(reference.merge(reference.frPyObjects(cell, 520, 704))) > 0
        mask = ours.dense(index)
        overlaps.append((mask & theirs).sum() / (mask | theirs).sum())
    assert np.mean(overlaps) > 0.995
    assert np.min(overlaps) > 0.95
