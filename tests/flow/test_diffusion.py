"""Labels to flows: against the definition, and what must hold for any image."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowseg import FlowsegError, labels_to_flows
from flowseg.arrays.jit import set_threads
from helpers.shapes import blobs, disc, spiral

Labels = NDArray[np.int32]
Field = NDArray[np.float64]


def by_definition(labels: Labels) -> tuple[Field, Field]:
    """Flows and heat as the definition reads, in double precision, for connected cells."""
    height, width = labels.shape
    flows, heats = np.zeros((2, height, width)), np.zeros((height, width))
    for name in np.unique(labels[labels > 0]):
        cell = np.pad(labels == name, 1)
        y, x = np.nonzero(cell)
        nearest = ((y - y.mean()) ** 2 + (x - x.mean()) ** 2).argmin()
        heat = np.zeros(cell.shape)
        for _ in range(2 * (np.ptp(y) + np.ptp(x) + 6)):
            heat[y[nearest], x[nearest]] += 1
            around = sum(np.roll(heat, (v, u), (0, 1)) for v in (-1, 0, 1) for u in (-1, 0, 1))
            heat = np.where(cell, around / 9, 0)
        slope = np.stack((heat[y + 1, x] - heat[y - 1, x], heat[y, x + 1] - heat[y, x - 1]))
        flows[:, y - 1, x - 1] = slope / (np.hypot(*slope) + 1e-300)
        heats[y - 1, x - 1] = np.hypot(*slope) / heat[y, x]
    return flows, heats


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int) -> None:
    labels = blobs(np.random.default_rng(seed), (40, 48))
    labels[disc(labels.shape, 20, 20, 9)] = 999
    labels = largest_pieces_only(labels)
    expected, slope = by_definition(labels)
    flows = labels_to_flows(labels)
    steep = slope > 1e-4  # elsewhere the direction is rounding
    assert steep.sum() > 0.95 * (labels > 0).sum()
    assert np.all((expected * flows).sum(axis=0)[steep] > 0.9999)
    assert np.all(flows[:, labels == 0] == 0)


def largest_pieces_only(labels: Labels) -> Labels:
    from flowseg.arrays.labels import keep_largest_component

    return keep_largest_component(labels)


def has_one_centre(labels: Labels) -> NDArray[np.bool_]:
    """Pixels of cells whose mean is nearest to one pixel only, by a margin."""
    keep = np.zeros(labels.shape, dtype=bool)
    for name in np.unique(labels[labels > 0]):
        y, x = np.nonzero(labels == name)
        distance = np.sort((y - y.mean()) ** 2 + (x - x.mean()) ** 2)
        keep[y, x] = distance.size == 1 or distance[1] - distance[0] > 1e-6
    return keep


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_commutes_with_quarter_turns_and_flips(seed: int, view: int) -> None:
    labels = largest_pieces_only(blobs(np.random.default_rng(seed), (36, 44)))
    turns, flip = view % 4, view >= 4

    def turn(image: NDArray[np.generic]) -> NDArray[np.generic]:
        turned = np.rot90(image, turns, axes=(-2, -1))
        return np.ascontiguousarray(turned[..., ::-1] if flip else turned)

    expected = turn(labels_to_flows(labels))
    for _ in range(turns):  # a quarter turn takes the vector (dy, dx) to (-dx, dy)
        expected = np.stack((-expected[1], expected[0]))
    if flip:
        expected[1] *= -1
    found = labels_to_flows(turn(labels))
    same = turn(has_one_centre(labels))
    difference = np.abs(found - expected).max(axis=0)[same]
    assert difference.size == 0 or np.mean(difference < 1e-3) > 0.995


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_ids_do_not_matter_and_a_crop_with_a_whole_cell_has_its_flows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = blobs(rng)
    flows = labels_to_flows(labels)
    names = np.concatenate(([0], rng.permutation(10**6)[: labels.max()] + 1))
    assert np.array_equal(labels_to_flows(names[labels]), flows)
    name = rng.choice(np.unique(labels[labels > 0]))
    y, x = np.nonzero(labels == name)
    box = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
    inside = labels[box] == name
    assert np.array_equal(
        labels_to_flows(labels[box])[:, inside], flows[(slice(None), *box)][:, inside]
    )


def follow(labels: Labels, flows: NDArray[np.float32]) -> int:
    """Pixels from which a walk to the pixel each flow points at comes within 2 px of the centre."""
    y, x = np.nonzero(labels)
    nearest = ((y - y.mean()) ** 2 + (x - x.mean()) ** 2).argmin()
    centre = np.array([y[nearest], x[nearest]])
    at = np.stack((y, x))
    for _ in range(labels.size):
        step = np.rint(flows[:, at[0], at[1]]).astype(int)
        ahead = at + step
        assert np.all(labels[ahead[0], ahead[1]] == 1)
        at = np.where(np.abs(at - centre[:, None]).max(axis=0) <= 1, at, ahead)
    return int((np.abs(at - centre[:, None]).max(axis=0) <= 2).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(np.ones((3, 400), dtype=np.int32), id="bar 400 x 3"),
        pytest.param(np.ones((1, 1500), dtype=np.int32), id="line of 1500"),
        pytest.param(np.eye(60, dtype=np.int32), id="diagonal line"),
        pytest.param(spiral(6), id="spiral"),
    ],
)
def test_every_pixel_of_a_long_thin_cell_is_led_to_the_centre(cell: Labels) -> None:
    labels = np.pad(cell, 1)
    flows = labels_to_flows(labels)
    still = (labels > 0) & (np.hypot(*flows) == 0)
    assert still.sum() <= 1
    assert follow(labels, flows) == labels.sum()


def test_pieces_away_from_the_centre_are_cells_of_their_own() -> None:
    labels = np.zeros((20, 60), dtype=np.int32)
    labels[4:14, 2:22] = 1
    alone = labels_to_flows(labels)
    labels[5:12, 40:47] = 1
    both = labels_to_flows(labels)
    piece = np.zeros_like(labels)
    piece[5:12, 40:47] = 1
    assert np.array_equal(both[:, :, 30:], labels_to_flows(piece)[:, :, 30:])
    main = np.hypot(*both[:, 4:14, 2:22])
    assert np.all((main > 0.99) | (main == 0))
    assert not np.array_equal(both[:, :, :30], alone[:, :, :30])  # its centre is the cell's


def test_touching_cells_do_not_see_each_other() -> None:
    labels = np.zeros((30, 40), dtype=np.int32)
    labels[5:25, 5:20] = 1
    alone = labels_to_flows(labels)
    labels[5:25, 20:35] = 2
    assert np.array_equal(labels_to_flows(labels)[:, :, :20], alone[:, :, :20])


def test_same_bytes_from_one_thread_two_threads_and_several_callers() -> None:
    labels = np.kron(blobs(np.random.default_rng(3)), np.ones((6, 6), dtype=np.int32))
    try:
        set_threads(1)
        expected = labels_to_flows(labels).tobytes()
        set_threads(2)
        assert labels_to_flows(labels).tobytes() == expected
        results: list[bytes] = []
        callers = [
            threading.Thread(target=lambda: results.append(labels_to_flows(labels).tobytes()))
            for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        set_threads(None)
    assert results == [expected] * 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_takes_any_integer_type(dtype: type) -> None:
    labels = np.zeros((9, 9), dtype=dtype)
    labels[2:7, 2:7] = 200 if dtype == np.uint8 else 30000
    flows = labels_to_flows(labels)
    assert flows.dtype == np.float32
    assert flows.shape == (2, 9, 9)
    assert np.allclose(np.hypot(*flows)[2:7, 2:7].sum(), 24, atol=1e-4)


def test_empty_images() -> None:
    assert not labels_to_flows(np.zeros((5, 7), dtype=int)).any()
    assert labels_to_flows(np.zeros((0, 7), dtype=int)).shape == (2, 0, 7)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([[0, -1]]), "negative"),
        (np.array([[0.5, 1.0]]), "integers"),
        (np.zeros((2, 3, 3), dtype=int), "2-D"),
    ],
)
def test_refuses_what_is_no_label_image(labels: NDArray[np.generic], said: str) -> None:
    with pytest.raises(FlowsegError, match=said):
        labels_to_flows(labels)
