"""Runs and connected pieces, against scipy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from flowseg.flow.runs import find_runs, group

images = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2)
)


@given(images, st.booleans())
def test_runs_redraw_the_image(labels: NDArray[np.int32], background: bool) -> None:
    runs = find_runs(labels, background)
    drawn = np.zeros_like(labels)
    for row, start, stop, name in zip(runs.rows, runs.starts, runs.stops, runs.ids, strict=True):
        drawn[row, start:stop] = name
    assert np.array_equal(drawn, labels)
    total = (runs.stops - runs.starts).sum()
    assert total == (labels.size if background else np.count_nonzero(labels))


@given(images)
def test_pieces_are_those_of_scipy(labels: NDArray[np.int32]) -> None:
    runs = find_runs(labels, background=True)
    pieces = np.empty_like(labels)
    for row, start, stop, piece in zip(
        runs.rows, runs.starts, runs.stops, runs.components, strict=True
    ):
        pieces[row, start:stop] = piece
    count = 0
    for name in np.unique(labels):
        structure = np.ones((3, 3)) if name else None
        expected, found = ndimage.label(labels == name, structure)
        count += found
        for k in range(1, found + 1):
            assert np.unique(pieces[expected == k]).size == 1
    assert runs.total == count == np.unique(pieces).size
    _, first = np.unique(pieces, return_index=True)
    assert np.all(np.diff(first) > 0)  # numbered in reading order


@given(st.lists(st.integers(0, 4)))
def test_group_is_a_stable_sort(keys: list[int]) -> None:
    array = np.array(keys, dtype=np.int32)
    order, offsets = group(array, 5)
    assert np.array_equal(order, np.argsort(array, kind="stable"))
    assert np.array_equal(np.diff(offsets), np.bincount(array, minlength=5))
