"""Blocks put together are the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from flowseg.config import CellType, NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.inference import blocks
from flowseg.inference.blocks import BlockSizes, StripMasks, segment_blocks
from flowseg.inference.committee import Answer
from flowseg.inference.segmenter import Request, Segmenter
from flowseg.network.checkpoint import Card
from flowseg.network.unet import FlowNetwork
from flowseg.rle import Masks


class Slopes:
    """Answers with the slopes of the blurred image, so that bright blobs are cells."""

    device = torch.device("cpu")
    diameter, stride, reach, tile = 30.0, 8, 24, 128

    def ask(self, images: np.ndarray, disagreement: bool) -> Answer:
        assert not disagreement
        blurred = gaussian_filter(images.astype(np.float64), (0, 3, 3), truncate=6)
        slopes = np.stack(np.gradient(blurred, axis=(1, 2)), axis=1)
        slopes /= np.linalg.norm(slopes, axis=1, keepdims=True) + 1e-3
        maps = np.concatenate((slopes, blurred[:, None] - 0.5), axis=1)
        votes = np.stack((blurred.mean((1, 2)), -blurred.mean((1, 2))), axis=1)
        return Answer(maps.astype(np.float32), votes.astype(np.float32), None)


@pytest.fixture
def segmenter() -> Segmenter:
    config = NetworkConfig(channels=(4, 6), blocks=1)
    cells = {"a": CellType(diameter=17.0), "b": CellType(diameter=41.0)}
    made = Segmenter(FlowNetwork(config, 2), Card(config, cells), "cpu", "float32")
    made.committee = Slopes()
    return made


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """Blobs, many of them touching."""
    image = np.zeros((420, 320))
    y, x = np.indices(image.shape)
    for _ in range(350):
        place, size = rng.random(2) * image.shape, rng.uniform(2, 9, 2)
        image += np.exp(-(((y - place[0]) / size[0]) ** 2) - ((x - place[1]) / size[1]) ** 2)
    return np.minimum(image, 1.5) + rng.normal(0, 0.02, image.shape)


@pytest.mark.parametrize("cell_type", ["a", "b"])
@pytest.mark.parametrize("sizes", [BlockSizes(100, 90, 8.0), BlockSizes(60, 400, 8.0)])
def test_blocks_give_the_labels_of_the_whole(
    segmenter: Segmenter, image: np.ndarray, sizes: BlockSizes, cell_type: str
) -> None:
    whole = segmenter.segment(image, cell_type=cell_type).labels
    assert whole.max() > 40
    request = Request(cell_type=cell_type)
    strips = list(segment_blocks(segmenter, lambda y, x: image[y, x], image.shape, request, sizes))
    assert [len(strip) for strip in strips][:2] == [sizes.height] * 2
    assert np.array_equal(np.concatenate(strips), whole)


def test_only_parts_are_read(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((2000, 300), np.uint8)
    image[::50, ::50] = 255
    largest = 0

    def read(rows: slice, columns: slice) -> np.ndarray:
        nonlocal largest
        part = image[rows, columns]
        largest = max(largest, len(part))
        return part

    monkeypatch.setattr(blocks, "_GLANCE", 64)
    request = Request(cell_type="a")
    strips = segment_blocks(segmenter, read, image.shape, request, BlockSizes(100, 300))
    assert len(list(strips)) == 20
    assert largest <= 512


def test_the_type_is_named_and_the_size_measured_on_the_middle(
    segmenter: Segmenter, image: np.ndarray
) -> None:
    whole = segmenter.segment(image, diameter="auto")
    strips = segment_blocks(
        segmenter, lambda y, x: image[y, x], image.shape, Request(diameter="auto")
    )
    assert np.array_equal(np.concatenate(list(strips)), whole.labels)
    assert 8 < whole.diameter < 20


def test_no_map_of_disagreement_is_made_of_blocks(segmenter: Segmenter, image: np.ndarray) -> None:
    with pytest.raises(FlowsegError, match="no map of disagreement"):
        next(
            segment_blocks(
                segmenter, lambda y, x: image[y, x], image.shape, Request(disagreement=True)
            )
        )


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_masks_of_strips_are_those_of_the_whole(height: int, width: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.int32)
    strips = StripMasks(width)
    for top in range(0, height, 2):
        strips.add(labels[top : top + 2])
    expected = Masks.from_labels(labels)
    found = strips.masks()
    assert found.shape == expected.shape
    assert found.to_strings() == expected.to_strings()
