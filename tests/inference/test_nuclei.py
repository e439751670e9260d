"""A second channel: the nuclei, for models of Cellpose that were trained with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from flowseg.arrays.intensity import normalize
from flowseg.errors import FlowsegError
from flowseg.inference.options import SegmentOptions, check_options
from flowseg.inference.segmenter import Segmenter
from flowseg.io.tables import read_table
from flowseg.network.checkpoint import load_network
from flowseg.prediction.predict import predict

REFERENCE = np.load(Path(__file__).parents[1] / "network" / "cellpose_reference.npz")


def model(folder: Path, name: str) -> Path:
    start = f"{name}/weight/"
    weights = {
        key.removeprefix(start): torch.from_numpy(REFERENCE[key])
        for key in REFERENCE.files
        if key.startswith(start)
    }
    torch.save(weights, folder / f"{name}_like")
    return folder / f"{name}_like"


@pytest.fixture
def cells_and_nuclei(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:64, :96]
    cells = 90 + 60 * np.sin(y / 5) * np.cos(x / 7) + rng.normal(0, 3, y.shape)
    nuclei = 120 + 80 * np.sin(y / 3 + x / 4)
    return cells.astype(np.uint8), nuclei.astype(np.uint8)


def test_the_network_sees_both(
    tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]
) -> None:
    path = model(tmp_path, "two")
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


def test_they_are_read_from_the_same_file(
    tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]
) -> None:
    cells, nuclei = cells_and_nuclei
    path = model(tmp_path, "two")
    tifffile.imwrite(
        tmp_path / "both.tif", np.stack([nuclei, cells]), imagej=True, metadata={"axes": "CYX"}
    )
    segmenter = Segmenter.load(path, "cpu")
    threshold = float(np.median(segmenter.segment(cells, nuclei=nuclei, diameter=30.0).cellprob))
    options = SegmentOptions(
        channel=1, nucleus_channel=0, diameter=30.0, cellprob_threshold=threshold, min_size=0
    )
    done = predict(path, tmp_path / "both.tif", tmp_path / "out.csv", device="cpu", options=options)
    expected = segmenter.segment(
        cells, nuclei=nuclei, diameter=30.0, cellprob_threshold=threshold, min_size=0
    )
    assert done.images == 1
    assert len(read_table(tmp_path / "out.csv", ("id", "predicted"))) == expected.labels.max() > 0


def test_what_does_not_fit_is_refused(
    tmp_path: Path, cells_and_nuclei: tuple[np.ndarray, np.ndarray]
) -> None:
    cells, nuclei = cells_and_nuclei
    two, grey = (
        Segmenter.load(model(tmp_path, name), "cpu", "float32") for name in ("two", "grey")
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
