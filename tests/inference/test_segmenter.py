"""The segmenter around a network: settings, sizes, cell types."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.inference.rescale import rescale
from flowseg.inference.segmenter import Segmenter
from flowseg.network.checkpoint import Card
from flowseg.network.size_model import SizeModel
from flowseg.network.unet import FlowNetwork

NETWORK = NetworkConfig(channels=(4, 8), blocks_per_level=1)


def segmenter(*names: str, diameter: float | None = 15.0) -> Segmenter:
    cells = {
        name: CellTypeSettings(diameter=diameter, min_size=0, flow_threshold=0.0) for name in names
    }
    return Segmenter(FlowNetwork(NETWORK, len(names), 0), Card(NETWORK, cells), "cpu", "float32")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 50), np.uint8),
        np.full((40, 50), np.nan),
        np.arange(2000, dtype=np.uint16).reshape(40, 50),
        np.zeros((40, 50, 3), np.uint8),
        np.ones((1, 50), np.float32),
    ],
)
def test_every_image_is_answered_at_its_size(image: np.ndarray) -> None:
    found = segmenter("a").segment(image)
    assert found.labels.shape == found.cellprob.shape == image.shape[:2]
    assert found.flows.shape == (2, *image.shape[:2])
    assert found.labels.dtype == np.int32
    assert found.cell_type == "a"


def test_same_bytes_twice(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (60, 70), np.uint8)
    one, two = (segmenter("a").segment(image, cellprob_threshold=-10) for _ in range(2))
    assert one.labels.max() > 0
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.flows, two.flows)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_predict_the_same(rng: np.random.Generator, duplicate: Any) -> None:
    image = rng.integers(0, 255, (60, 70), np.uint8)
    names = ("a", "b")
    networks = [FlowNetwork(NETWORK, len(names), seed) for seed in (1, 2)]
    cell_types = {name: CellTypeSettings(diameter=15.0 + len(name)) for name in names}
    one = Segmenter(networks, Card(NETWORK, cell_types), "cpu", "float32", tta=2)
    other = duplicate(one)
    expected, found = (s.segment(image, disagreement=True) for s in (one, other))
    assert other.ensemble.networks[0] is not one.ensemble.networks[0]
    assert found.cell_type == expected.cell_type
    for name in ("labels", "flows", "cellprob", "disagreement"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_given_settings_replace_the_cards(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (60, 70), np.uint8)
    assert segmenter("a").segment(image, cellprob_threshold=100).labels.max() == 0
    smaller = segmenter("a").segment(image, diameter=30)
    assert not np.array_equal(smaller.cellprob, segmenter("a").segment(image).cellprob)


def test_cell_type_is_given_or_named(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (60, 70), np.uint8)
    both = segmenter("a", "b")
    assert both.segment(image, cell_type="b").cell_type == "b"
    assert both.segment(image).cell_type in ("a", "b")
    with pytest.raises(FlowsegError, match="knows no cell type 'c'; choose one of a, b"):
        both.segment(image, cell_type="c")


def test_a_diameter_is_greater_than_zero() -> None:
    with pytest.raises(FlowsegError, match="diameter must be greater than 0"):
        segmenter("a").segment(np.zeros((20, 20), np.uint8), diameter=0)


@pytest.mark.slow
def test_a_card_without_a_diameter_has_it_measured(slopes: Segmenter, blobs: np.ndarray) -> None:
    slopes.card = replace(slopes.card, cell_types={"a": CellTypeSettings()})
    assert 8 < slopes.segment(blobs).diameter < 20
    assert slopes.segment(np.zeros((64, 64))).diameter == slopes.ensemble.diameter


@pytest.mark.slow
@pytest.mark.parametrize("zoom", [1.5, 2.0, 3.0])
def test_the_size_is_measured_whatever_the_image_is_scaled_to(
    slopes: Segmenter, blobs: np.ndarray, zoom: float
) -> None:
    plain = slopes.segment(blobs[:200, :200], cell_type="a", diameter="auto").diameter
    shape = (round(200 * zoom), round(200 * zoom))
    scaled = rescale(blobs[:200, :200].astype(np.float32), shape)
    found = slopes.segment(scaled, cell_type="a", diameter="auto").diameter
    assert found == pytest.approx(plain * zoom, rel=0.15)


def test_the_size_of_an_image_without_cells_is_the_cell_types(slopes: Segmenter) -> None:
    empty = np.zeros((60, 60), np.uint8)
    found = slopes.segment(empty, cell_type="b", diameter="auto", cellprob_threshold=0)
    assert found.diameter == 41.0


def test_a_list_of_images() -> None:
    one = segmenter("a")
    images = [np.full((40, 50), 100, np.uint8), np.full((30, 30, 3), 7, np.uint8)]
    shapes = [found.labels.shape for found in one.segment(images)]
    assert shapes == [(40, 50), (30, 30)]
    alone = one.segment(images[0])
    assert np.array_equal(one.segment(tuple(images))[0].flows, alone.flows)
    assert one.segment([[1, 2, 3], [4, 5, 6]]).labels.shape == (2, 3)  # one, as lists


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ((3, 40, 50), "channels first"),
        ((1, 40, 50), "channels first"),
        ((8, 40, 50), "several images as a list"),
        ((2, 40, 50, 3), "is several images"),
    ],
)
def test_arrays_that_are_no_image_are_told_apart(shape: tuple[int, ...], cause: str) -> None:
    with pytest.raises(FlowsegError, match=cause):
        segmenter("a").segment(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"diameter": "30"}, r"diameter is '30', not a number; give a number or 'auto'"),
        ({"diameter": float("nan")}, "diameter must be"),
        ({"min_size": "many"}, "min_size is 'many'"),
        ({"flow_threshold": [0.4]}, "flow_threshold is"),
    ],
)
def test_options_that_are_no_numbers(options: dict[str, object], cause: str) -> None:
    with pytest.raises(FlowsegError, match=cause):
        segmenter("a").segment(np.zeros((40, 50), np.uint8), **options)


def test_a_run_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FlowsegError, match="is a folder without a checkpoint"):
        Segmenter.load(tmp_path, "cpu")
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(FlowsegError, match=r"is a folder.*name one, such as .*best\.safetensors"):
        Segmenter.load(tmp_path, "cpu")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "gone.safetensors")
    with pytest.raises(FlowsegError, match=r"link to a file that is not there: .*gone"):
        Segmenter.load(tmp_path / "link.safetensors", "cpu")


@pytest.mark.slow
def test_measuring_begins_with_a_size_model(slopes: Segmenter, blobs: np.ndarray) -> None:
    ensemble: Any = slopes.ensemble
    predict, calls = ensemble.predict, []
    ensemble.predict = lambda *args: calls.append(1) or predict(*args[:2])
    ladder = slopes.segment(blobs, cell_type="a", diameter="auto").diameter
    without, calls[:] = len(calls), []
    ensemble.styles = lambda parts: [torch.full((1, 4), 0.5) for _ in parts]
    slopes.size_model = SizeModel(
        weights=np.zeros(4), mean_style=np.zeros(4), mean_log=math.log(0.5), target_diameter=30.0
    )
    found = slopes.segment(blobs, cell_type="a", diameter="auto").diameter
    assert found == pytest.approx(ladder, rel=0.1)
    assert len(calls) < without
