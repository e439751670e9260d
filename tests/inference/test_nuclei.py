"""A second channel: the nuclei, for models of Cellpose that were trained with them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from flowseg.arrays.intensity import normalize
from flowseg.errors import FlowsegError
from flowseg.formats.writers import Formats
from flowseg.inference.options import SegmentOptions, check_options
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import plan_slide
from flowseg.inference.tiles import cut_tiles, predict_tiles
from flowseg.io.tables import read_table
from flowseg.network import device
from flowseg.network.checkpoint import load_network
from flowseg.prediction import predict as room
from flowseg.prediction.predict import predict
from helpers.cellpose import save_model


@pytest.fixture
def cells_and_nuclei(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:64, :96]
    cells = 90 + 60 * np.sin(y / 5) * np.cos(x / 7) + rng.normal(0, 3, y.shape)
    nuclei = 120 + 80 * np.sin(y / 3 + x / 4)
    return cells.astype(np.uint8), nuclei.astype(np.uint8)


def test_the_network_sees_both(
    tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]
) -> None:
    path = save_model(tmp_path, "two")
    segmenter = Segmenter.load(path, "cpu", "float32")
    cells, nuclei = cells_and_nuclei
    found = segmenter.segment(cells, nuclei=nuclei, diameter=30.0)
    network, _ = load_network(path)
    planes = np.stack([normalize(plane.astype(np.float32)) for plane in (cells, nuclei)])
    with torch.inference_mode():
        expected = network(torch.from_numpy(planes)[None])
    np.testing.assert_allclose(found.cellprob, expected.cellprob[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(5 * found.flows, expected.flows[0].numpy(), atol=1e-5)
    without = segmenter.segment(cells, diameter=30.0)
    assert np.abs(found.cellprob - without.cellprob).max() > 1e-3
    # Rescaled, in tiles and with augmentation: they stay together.
    for options in ({"diameter": 21.0}, {"diameter": 21.0, "cellpose_tiles": True}):
        assert segmenter.segment(cells, nuclei=nuclei, **options).labels.shape == cells.shape


@pytest.fixture
def both(tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]) -> Path:
    """A TIFF of nuclei, then cells."""
    cells, nuclei = cells_and_nuclei
    path = tmp_path / "both.tif"
    tifffile.imwrite(path, np.stack([nuclei, cells]), imagej=True, metadata={"axes": "CYX"})
    return path


@pytest.fixture
def options(tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]) -> SegmentOptions:
    """Of that file, with a threshold at which the network finds cells."""
    cells, nuclei = cells_and_nuclei
    found = Segmenter.load(save_model(tmp_path, "two"), "cpu").segment(
        cells, nuclei=nuclei, diameter=30.0
    )
    return SegmentOptions(
        channel=1,
        nucleus_channel=0,
        diameter=30.0,
        cellprob_threshold=float(np.median(found.cellprob)),
        min_size=0,
    )


def test_they_are_read_from_the_same_file(
    tmp_path: Path,
    both: Path,
    options: SegmentOptions,
    cells_and_nuclei: tuple[np.ndarray, np.ndarray],
) -> None:
    path = save_model(tmp_path, "two")
    cells, nuclei = cells_and_nuclei
    done = predict(path, both, tmp_path / "out.csv", device="cpu", options=options)
    expected = Segmenter.load(path, "cpu").segment(
        cells,
        nuclei=nuclei,
        diameter=30.0,
        cellprob_threshold=options.cellprob_threshold,
        min_size=0,
    )
    assert done.images == 1
    assert len(read_table(tmp_path / "out.csv", ("id", "predicted"))) == expected.labels.max() > 0


def test_a_slide_has_them_in_every_tile(
    tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]
) -> None:
    cells, nuclei = (np.tile(plane, (5, 4)) for plane in cells_and_nuclei)
    segmenter = Segmenter.load(save_model(tmp_path, "two"), "cpu", "float32")
    expected = segmenter.segment(cells, nuclei=nuclei, diameter=21.0)
    segmenter.ensemble.tile = 128
    reads = [lambda *region: cells[region], lambda *region: nuclei[region]]
    plan = plan_slide(segmenter, reads, cells.shape, SegmentOptions(diameter=21.0))
    tiles = [tile for row in cut_tiles(plan.scaled, segmenter.ensemble) for tile in row]
    assert len(tiles) > 10
    fields = predict_tiles(
        segmenter.ensemble, partial(plan.read_scaled, reads), tiles, styles=plan.styles
    )
    maps = np.empty((3, *plan.scaled), np.float32)
    for tile, field in fields:
        maps[(slice(None), *tile.write)] = field.maps.numpy()
    whole = plan.restore(maps, (0, 0), (slice(0, len(cells)), slice(0, cells.shape[1])))
    np.testing.assert_allclose(whole[2], expected.cellprob, atol=1e-5)
    np.testing.assert_allclose(whole[:2], expected.flows, atol=1e-5)


def test_predicting_slides_takes_them(
    tmp_path: Path, both: Path, options: SegmentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: False)  # tiles would round otherwise
    path = save_model(tmp_path, "two")
    predict(path, both, tmp_path / "image.csv", device="cpu", options=options)
    monkeypatch.setattr(room, "_SLIDE", 1000)
    outputs = Formats(submission=tmp_path / "slide.csv", overlays=tmp_path / "overlays")
    predict(path, both, outputs, device="cpu", options=options)
    assert (tmp_path / "slide.csv").read_text() == (tmp_path / "image.csv").read_text()
    assert len(list((tmp_path / "overlays").iterdir())) == 1


def test_what_does_not_fit_is_refused(
    tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]
) -> None:
    cells, nuclei = cells_and_nuclei
    two, grey = (
        Segmenter.load(save_model(tmp_path, name), "cpu", "float32") for name in ("two", "grey")
    )
    with pytest.raises(FlowsegError, match="sees one channel"):
        grey.segment(cells, nuclei=nuclei)
    with pytest.raises(FlowsegError, match="the nuclei is 95 x 64 pixels, that of the cells 96"):
        two.segment(cells, nuclei=nuclei[:, 1:])
    with pytest.raises(FlowsegError, match="of one image"):
        two.segment([cells, cells], nuclei=nuclei)
    options = SegmentOptions(nucleus_channel=1)
    with pytest.raises(FlowsegError, match="none of the cells"):
        check_options(two.card, options)
    with pytest.raises(FlowsegError, match="sees one channel"):
        check_options(grey.card, replace(options, channel=0))
