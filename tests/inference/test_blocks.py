"""Blocks put together are the whole."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowseg.arrays.labels import clear_border, renumber
from flowseg.arrays.rle import Masks
from flowseg.errors import FlowsegError
from flowseg.inference import slides
from flowseg.inference.blocks import BlockSizes, RowMasks
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import plan_slide, segment_slide

pytestmark = pytest.mark.slow


def strips_of(
    segmenter: Segmenter,
    image: np.ndarray,
    options: SegmentOptions,
    sizes: BlockSizes = BlockSizes(),  # noqa: B008
) -> list[np.ndarray]:
    def read(rows: slice, columns: slice) -> np.ndarray:
        return image[rows, columns]

    plan = plan_slide(segmenter, [read], image.shape, options)
    return list(segment_slide(segmenter, [read], plan, sizes))


@pytest.mark.parametrize("cell_type", ["a", "b"])
@pytest.mark.parametrize("sizes", [BlockSizes(100, 90, 8.0), BlockSizes(60, 400, 8.0)])
def test_blocks_give_the_labels_of_the_whole(
    slopes: Segmenter, blobs: np.ndarray, sizes: BlockSizes, cell_type: str
) -> None:
    whole = slopes.segment(blobs, cell_type=cell_type).labels
    assert whole.max() > 40
    options = SegmentOptions(cell_type=cell_type)
    strips = strips_of(slopes, blobs, options, sizes)
    assert [len(strip) for strip in strips][:2] == [sizes.height] * 2
    assert np.array_equal(np.concatenate(strips), whole)


@pytest.mark.parametrize("sizes", [BlockSizes(100, 90, 8.0), BlockSizes(60, 400, 8.0)])
def test_cells_at_the_border_of_a_slide_are_left_out(
    slopes: Segmenter, blobs: np.ndarray, sizes: BlockSizes
) -> None:
    every = slopes.segment(blobs, cell_type="a").labels
    whole = slopes.segment(blobs, cell_type="a", exclude_border=True).labels
    inner = clear_border(every)
    assert len(np.unique(inner)) < len(np.unique(every))
    assert np.array_equal(whole, renumber(inner))
    strips = strips_of(slopes, blobs, SegmentOptions(cell_type="a", exclude_border=True), sizes)
    assert np.array_equal(np.concatenate(strips), whole)


def test_only_parts_are_read(slopes: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((2000, 300), np.uint8)
    image[::50, ::50] = 255
    largest = 0

    def read(rows: slice, columns: slice) -> np.ndarray:
        nonlocal largest
        part = image[rows, columns]
        largest = max(largest, len(part))
        return part

    monkeypatch.setattr(slides, "_CENTRE", 64)
    plan = plan_slide(slopes, [read], image.shape, SegmentOptions(cell_type="a"))
    strips = segment_slide(slopes, [read], plan, BlockSizes(100, 300))
    assert len(list(strips)) == 20
    assert largest <= 512


def test_a_slide_that_fails_midway_leaves_no_thread(
    slopes: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((2000, 300), np.uint8)

    def read(rows: slice, columns: slice) -> np.ndarray:
        if rows.stop > 1000:
            raise FlowsegError("is cut off")
        return image[rows, columns]

    monkeypatch.setattr(slides, "_CENTRE", 64)
    plan = plan_slide(
        slopes, [lambda *region: image[region]], image.shape, SegmentOptions(cell_type="a")
    )
    before = set(threading.enumerate())
    # Its traceback, while it is held, holds all that was under way.
    with pytest.raises(FlowsegError, match="is cut off"):
        list(segment_slide(slopes, [read], plan, BlockSizes(100, 300)))
    assert set(threading.enumerate()) <= before


def test_the_type_is_named_and_the_size_measured_on_the_middle(
    slopes: Segmenter, blobs: np.ndarray
) -> None:
    whole = slopes.segment(blobs, diameter="auto")
    strips = strips_of(slopes, blobs, SegmentOptions(diameter="auto"))
    assert np.array_equal(np.concatenate(strips), whole.labels)
    assert 8 < whole.diameter < 20


def test_no_map_of_disagreement_is_made_of_blocks(slopes: Segmenter, blobs: np.ndarray) -> None:
    with pytest.raises(FlowsegError, match="no map of disagreement"):
        strips_of(slopes, blobs, SegmentOptions(disagreement=True))


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_masks_of_strips_are_those_of_the_whole(height: int, width: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.int32)
    strips = RowMasks(width)
    for top in range(0, height, 2):
        strips.add(labels[top : top + 2])
    expected = Masks.from_labels(labels)
    found = strips.masks()
    assert found.shape == expected.shape
    assert found.to_strings() == expected.to_strings()
