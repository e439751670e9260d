"""Cellpose's own tiles: the flow field that its models have there."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from flowseg.arrays.intensity import normalize
from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.inference.blocks import BlockSizes
from flowseg.inference.cellpose_tiles import predict_cellpose_tiles
from flowseg.inference.ensemble import Ensemble
from flowseg.inference.options import SegmentOptions, check_options
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import plan_slide, segment_slide
from flowseg.inference.tiles import cut_tiles, predict_rescaled, predict_tiles
from flowseg.network.architecture import Architecture
from flowseg.network.checkpoint import Card, load_network
from helpers.cellpose import REFERENCE, save_model

SHAPE, ZOOM = (150, 313), 1.4  # as in make_cellpose_reference.py


@pytest.fixture
def network(tmp_path: Path) -> Architecture:
    return load_network(save_model(tmp_path, "two"))[0]


def picture() -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.asarray(np.sin(y / 7) * np.cos(x / 11 + y / 30) + (x > 200), np.float32)


def segmenter_of(network: Architecture) -> Segmenter:
    cells = {"cell": CellTypeSettings(diameter=30 / ZOOM, flow_threshold=0.0)}
    return Segmenter(network, Card(network.config, cells), "cpu", "float32")


def test_the_field_is_cellposes(network: Architecture) -> None:
    expected = REFERENCE["tiled/maps"]
    ensemble = Ensemble([network], "cpu", "float32")
    field = predict_cellpose_tiles(ensemble, picture(), 30 / ZOOM, disagreement=True)
    assert field.maps.shape == (3, *SHAPE)
    found = field.maps.numpy()[:, ::9, ::9]
    scale = network.config.flow_scale
    for k, factor in enumerate((scale, scale, 1.0)):
        np.testing.assert_allclose(factor * found[k], expected[..., k], atol=1e-5)
    assert field.disagreement is not None
    assert float(field.disagreement.max()) < 1e-3  # one network, one view
    whole = segmenter_of(network).predict_flows(picture(), CellTypeSettings(diameter=30 / ZOOM))
    # Not by chance: one style for the image gives another field.
    assert np.abs(whole.cellprob[::9, ::9] - expected[..., 2]).max() > 0.01


def test_a_segmenter_can_be_sent_to_another_process(network: Architecture) -> None:
    segmenter = segmenter_of(network)
    sent = pickle.loads(pickle.dumps(segmenter))
    np.testing.assert_array_equal(
        sent.segment(picture()).cellprob, segmenter.segment(picture()).cellprob
    )


def test_a_small_image_is_one_tile(network: Architecture) -> None:
    ensemble = Ensemble([network], "cpu", "float32")
    image = picture()[:5, :9]
    assert predict_cellpose_tiles(ensemble, image, 30.0).maps.shape == (3, 5, 9)


def test_it_is_asked_for_by_an_option(network: Architecture) -> None:
    segmenter = segmenter_of(network)
    apart = segmenter.segment(picture(), cellpose_tiles=True).cellprob
    assert np.abs(apart - segmenter.segment(picture()).cellprob).max() > 1e-3


def test_networks_of_ours_have_no_such_tiles(slopes: Segmenter) -> None:
    with pytest.raises(FlowsegError, match="for its models"):
        check_options(slopes.card, SegmentOptions(cellpose_tiles=True))


def test_a_slide_has_the_style_of_the_whole(network: Architecture) -> None:
    image = np.vstack([picture(), 2 * picture(), 0.5 * picture()])
    image = np.rint(255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)

    def read(rows: slice, columns: slice) -> np.ndarray:
        return image[rows, columns]

    segmenter = segmenter_of(network)
    grey = normalize(image.astype(np.float32))
    whole = predict_rescaled(segmenter.ensemble, grey, 30 / ZOOM).maps
    segmenter.ensemble.tile = 128
    plan = plan_slide(segmenter, [read], image.shape, SegmentOptions())
    tiles = [tile for row in cut_tiles(plan.scaled, segmenter.ensemble) for tile in row]
    assert len(tiles) > 10
    read_scaled = partial(plan.read_scaled, [read])
    for tile, field in predict_tiles(segmenter.ensemble, read_scaled, tiles, styles=plan.styles):
        expected = whole[(slice(None), *tile.write)]
        torch.testing.assert_close(field.maps, expected, rtol=0, atol=1e-5)
    assert len(list(segment_slide(segmenter, [read], plan, BlockSizes(100, 120)))) == 5
    with pytest.raises(FlowsegError, match="not in the tiles of Cellpose"):
        plan_slide(segmenter, [read], image.shape, SegmentOptions(cellpose_tiles=True))
