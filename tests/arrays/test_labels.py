"""Label images: checks, shapes, and what becomes of overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from flowseg.arrays.labels import (
    check_labels,
    clear_border,
    equivalent_diameter,
    fill_holes,
    keep_largest_component,
    outlines,
    renumber,
)
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError

LABELS = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)
)


@pytest.mark.parametrize(
    ("labels", "edges", "left"),
    [
        ([[1, 0, 2], [0, 9, 0], [3, 0, 4]], (True, True, True, True), [9]),
        ([[0, 0, 0, 0], [5, 5, 7, 0], [0, 0, 7, 0]], (True, False, True, False), [7]),
        ([[0, 0, 0, 0], [5, 5, 7, 0], [0, 0, 7, 0]], (False, True, False, True), [5]),
        ([[3, 0, 8]], (True, True, True, True), []),
        ([[3, 0, 8]], (False, False, False, True), [3]),
        ([[3, 0, 8]], (False, False, False, False), [3, 8]),
        (np.zeros((0, 4), int), (True, True, True, True), []),
    ],
)
def test_cells_that_the_edge_cuts_are_cleared(
    labels: list[list[int]], edges: tuple[bool, bool, bool, bool], left: list[int]
) -> None:
    image = np.array(labels)
    cleared = clear_border(image, edges)
    assert np.array_equal(cleared, np.where(np.isin(image, left), image, 0))
    assert cleared.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.zeros(3, int), "2-D array of integers, not 1-D"),
        (np.zeros((2, 2)), "2-D array of integers, not 2-D float64"),
        (np.zeros((2, 2), bool), "not 2-D bool"),
        (np.array([[0, -4]]), "this one has -4"),
        (np.array([[2**31]]), "beyond int32"),
        (np.array([[2**64 - 1]], dtype=np.uint64), "beyond int32"),
    ],
)
def test_what_is_no_label_image_is_refused(labels, complaint):
    with pytest.raises(FlowsegError, match=complaint):
        check_labels(labels)


def test_a_label_image_comes_back_contiguous_int32():
    checked = check_labels(np.arange(6, dtype=np.uint16).reshape(2, 3).T)
    assert checked.dtype == np.int32
    assert checked.flags.c_contiguous
    assert check_labels(np.zeros((0, 4), np.uint8)).shape == (0, 4)


@given(LABELS)
def test_renumber_leaves_no_gaps_and_keeps_the_order(labels):
    ids = np.unique(labels[labels > 0])
    expected = np.searchsorted(ids, labels) + 1
    np.testing.assert_array_equal(renumber(labels), np.where(labels > 0, expected, 0))


@given(LABELS)
def test_largest_pieces_keeps_one_piece_a_cell(labels):
    kept = keep_largest_component(labels)
    for i in np.unique(labels[labels > 0]):
        pieces, _ = ndimage.label(labels == i, np.ones((3, 3)))
        largest = np.bincount(pieces.ravel())[1:].argmax() + 1
        np.testing.assert_array_equal(kept == i, pieces == largest)


@given(LABELS)
def test_fill_holes_fills_what_one_cell_encloses(labels):
    gaps, count = ndimage.label(labels == 0)
    expected = labels.copy()
    framed = np.pad(labels, 1, constant_values=-1)
    for gap in range(1, count + 1):
        ring = ndimage.binary_dilation(np.pad(gaps == gap, 1)) & (framed != 0)
        around = np.unique(framed[ring])
        if len(around) == 1 and around[0] > 0:
            expected[gaps == gap] = around[0]
    np.testing.assert_array_equal(fill_holes(labels), expected)


@given(LABELS)
def test_outlines_are_cell_pixels_with_another_value_beside_them(labels):
    edge = outlines(labels)
    assert not edge[labels == 0].any()
    for i in np.unique(labels[labels > 0]):
        inner = ndimage.binary_erosion(labels == i)
        np.testing.assert_array_equal(edge & (labels == i), (labels == i) & ~inner)


@given(LABELS)
def test_masks_that_do_not_overlap_give_their_labels(labels):
    masks = Masks.from_labels(labels)
    np.testing.assert_array_equal(masks.paint(), renumber(labels))
    np.testing.assert_array_equal(masks_to_labels(masks), renumber(labels))


def test_diameter_of_a_disc():
    np.testing.assert_allclose(equivalent_diameter([np.pi, 4 * np.pi, 0]), [2, 4, 0])
