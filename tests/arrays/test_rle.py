"""Run lengths: literal cases, round trips, and texts that are no masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowseg.arrays.rle import Masks, rle_decode, rle_encode
from flowseg.errors import FlowsegError

unhurried = settings(deadline=None)  # the first call compiles
SHAPES = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.just(1), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.just(1)),
)
BOOL_MASKS = hnp.arrays(np.bool_, SHAPES)


def test_the_text_is_row_major_and_counts_from_one():
    mask = np.array([[0, 1, 1], [1, 0, 1]], dtype=bool)
    # row by row the pixels are 2, 3, 4 and 6; column by column they would be 2, 3, 5 and 6
    assert rle_encode(mask) == "2 3 6 1"
    np.testing.assert_array_equal(rle_decode("2 3 6 1", (2, 3)), mask)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (3, 4), (1, 1)])
def test_empty_and_full(shape):
    assert rle_encode(np.zeros(shape, bool)) == ""
    assert not rle_decode("", shape).any()
    full = rle_encode(np.ones(shape, bool))
    assert full == f"1 {shape[0] * shape[1]}"
    assert rle_decode(full, shape).all()


@unhurried
@given(BOOL_MASKS)
def test_round_trip(mask):
    decoded = rle_decode(rle_encode(mask), mask.shape)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)


@unhurried
@given(BOOL_MASKS)
def test_runs_are_maximal(mask):
    masks = Masks.from_dense([mask])
    assert (masks.lengths > 0).all()
    assert (masks.starts[1:] > masks.starts[:-1] + masks.lengths[:-1]).all()
    assert masks.areas().tolist() == [mask.sum()]


@unhurried
@given(hnp.arrays(np.int16, SHAPES, elements=st.integers(0, 4)))
def test_a_label_image_in_one_pass_equals_mask_by_mask(labels):
    masks = Masks.from_labels(labels)
    ids = np.unique(labels[labels > 0])
    assert len(masks) == len(ids)
    one_by_one = Masks.from_dense([labels == i for i in ids], labels.shape)
    for name in ("starts", "lengths", "offsets"):
        np.testing.assert_array_equal(getattr(masks, name), getattr(one_by_one, name))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_label_images_of_any_integer_type(dtype):
    top = min(np.iinfo(dtype).max, 2**40)
    masks = Masks.from_labels(np.array([[0, top], [3, top]], dtype=dtype))
    assert masks.to_strings() == ["3 1", "2 1 4 1"]


def test_label_ids_beyond_int64():
    assert len(Masks.from_labels(np.array([[0, 1, 2**64 - 1]], dtype=np.uint64))) == 2


@pytest.mark.parametrize(
    "labels", [np.array([[0, -1]]), np.zeros((2, 2), bool), np.zeros((2, 2)), np.zeros(4, int)]
)
def test_what_is_no_label_image_is_refused(labels):
    with pytest.raises(FlowsegError, match="label image"):
        Masks.from_labels(labels)


@pytest.mark.slow
@unhurried
@given(st.text(), SHAPES)
def test_any_text_gives_a_mask_or_the_error(text, shape):
    try:
        mask = rle_decode(text, shape)
    except FlowsegError:
        return
    assert mask.shape == shape


@unhurried
@given(st.lists(st.integers(-3, 40), max_size=8), SHAPES)
def test_numbers_are_accepted_exactly_when_they_are_ascending_runs_inside(numbers, shape):
    starts, lengths = numbers[0::2], numbers[1::2]
    ends = [s + n for s, n in zip(starts, lengths, strict=False)]
    good = (
        len(numbers) % 2 == 0
        and all(s >= 1 for s in starts)
        and all(n >= 1 for n in lengths)
        and all(e <= shape[0] * shape[1] + 1 for e in ends)
        and all(s >= e for s, e in zip(starts[1:], ends[:-1], strict=True))
    )
    text = " ".join(map(str, numbers))
    if good:
        assert rle_decode(text, shape).sum() == sum(lengths)
    else:
        with pytest.raises(FlowsegError):
            rle_decode(text, shape)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3", "odd count"),
        ("1 x", "not a whole number"),
        ("1.0 2", "not a whole number"),
        ("-1 2", "not a whole number"),
        ("٣ 1", "not a whole number"),
        ("\ud800 1", "not a whole number"),
        ("0 2", "start below 1"),
        ("1 0", "length below 1"),
        ("12 2", "past the last pixel"),
        ("13 1", "past the last pixel"),
        ("1 99999999999999999999999999", "past the last pixel"),
        ("99999999999999999999999999 1", "past the last pixel"),
        ("5 2 1 2", "do not ascend"),
        ("1 3 3 1", "overlap"),
    ],
)
def test_each_fault_says_what_it_is_and_where(text, reason):
    with pytest.raises(FlowsegError, match=f"^mask 1: .*{reason}"):
        Masks.from_strings(["1 1", text, "2 1"], (3, 4))


def test_a_text_that_is_missing_is_refused():
    with pytest.raises(FlowsegError, match="not a whole number"):
        Masks.from_strings([float("nan")], (3, 4))


def test_touching_runs_become_one():
    assert Masks.from_strings([" 1 2\t3 2  6 1\n"], (2, 4)).to_strings() == ["1 4 6 1"]


@unhurried
@given(st.lists(hnp.arrays(np.bool_, (2, 3))))
def test_many_masks_keep_their_overlaps(masks):
    held = Masks.from_dense(masks, (2, 3))
    again = Masks.from_strings(held.to_strings(), (2, 3))
    assert len(again) == len(masks)
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(again.dense(index), mask)


def test_select_takes_positions_and_flags():
    masks = Masks.from_strings(["1 1 3 1", "", "2 2", "4 1"], (2, 2))
    assert masks.select([3, 0, 0]).to_strings() == ["4 1", "1 1 3 1", "1 1 3 1"]
    assert masks.select(masks.areas() > 1).to_strings() == ["1 1 3 1", "2 2"]
    assert len(masks.select([])) == 0
    with pytest.raises(IndexError):
        masks.dense(4)
    assert masks.dense(-1).sum() == 1


def test_dense_masks_need_one_shape():
    with pytest.raises(FlowsegError, match="shape"):
        Masks.from_dense([])
    with pytest.raises(FlowsegError, match="mask 1 has shape"):
        Masks.from_dense([np.zeros((2, 2), bool), np.zeros((2, 3), bool)])
    with pytest.raises(FlowsegError, match="2-D array of bool"):
        rle_encode(np.zeros((2, 2)))
    with pytest.raises(FlowsegError, match="height, width"):
        rle_decode("", (3,))


def test_masks_one_after_the_other():
    parts = [Masks.from_strings(texts, (2, 4)) for texts in (["1 2 5 1", ""], [], ["1 1", "8 1"])]
    together = Masks.concatenate(parts, (2, 4))
    assert together.to_strings() == ["1 2 5 1", "", "1 1", "8 1"]
    assert together.paint().tolist() == [[3, 1, 0, 0], [1, 0, 0, 4]]
    assert Masks.concatenate([], (2, 4)).to_strings() == []
