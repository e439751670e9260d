"""What a cluster computes is what one machine computes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from flowseg.arrays.jit import set_threads
from flowseg.errors import FlowsegError
from flowseg.inference.blocks import BlockSizes
from flowseg.inference.cluster import Cluster, connect
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.slides import plan_slide
from flowseg.io.image_source import ImageSource, list_images
from helpers.cellpose import save_model


@pytest.fixture
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    # Workers in this process would count all its memory, each against its own share.
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    options["memory_limit"] = 0
    torch_threads = torch.get_num_threads()
    with distributed.Client(processes=False, **options) as made:
        yield made
    torch.set_num_threads(torch_threads)
    set_threads(None)


def labels_on(cluster: Cluster, segmenter: Segmenter, path: Path, **options: Any) -> np.ndarray:
    sizes = options.pop("sizes", BlockSizes())
    (source,) = list_images(path)
    with source.open_regions() as read:
        plan = plan_slide(segmenter, [read], source.shape, SegmentOptions(**options))
    return np.concatenate(list(cluster.segment(source, plan, sizes)))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [BlockSizes(100, 90, 8.0), BlockSizes(60, 400, 8.0)])
@pytest.mark.parametrize("cell_type", ["a", "b"])
def test_a_cluster_finds_the_labels_of_the_whole(
    client: Any,
    slopes: Segmenter,
    blobs: np.ndarray,
    tmp_path: Path,
    sizes: BlockSizes,
    cell_type: str,
) -> None:
    image = blobs.astype(np.float32)
    tifffile.imwrite(tmp_path / "s.tif", image, tile=(64, 64))
    cluster = Cluster(client, slopes)
    found = labels_on(cluster, slopes, tmp_path / "s.tif", sizes=sizes, cell_type=cell_type)
    assert np.array_equal(found, slopes.segment(image, cell_type=cell_type).labels)
    assert found.max() > 40


@pytest.mark.slow
def test_nuclei_are_read_on_the_workers(client: Any, blobs: np.ndarray, tmp_path: Path) -> None:
    cells, nuclei = blobs.astype(np.float32), blobs[::-1].astype(np.float32)
    tifffile.imwrite(tmp_path / "s.tif", np.stack([nuclei, cells]))
    images = (list_images(tmp_path / "s.tif", channel)[0] for channel in (1, 0))
    source, nuclei_source = images
    source = replace(source, nuclei=nuclei_source)
    segmenter = Segmenter.load(save_model(tmp_path, "two"), "cpu", "float32")
    settings = {"diameter": 30.0, "cellprob_threshold": 0.0, "flow_threshold": 0.0}
    expected = segmenter.segment(cells, nuclei=nuclei, **settings)
    # Near the median, and as far from any pixel's value as there is: tiles differ by rounding.
    middle = np.sort(expected.cellprob, axis=None)[expected.cellprob.size // 2 :][:1000]
    widest = int(np.diff(middle).argmax())
    settings["cellprob_threshold"] = float(middle[widest : widest + 2].mean())
    expected = segmenter.segment(cells, nuclei=nuclei, **settings)
    with source.open_planes() as reads:
        plan = plan_slide(segmenter, reads, source.shape, SegmentOptions(**settings))
    found = np.concatenate(list(Cluster(client, segmenter).segment(source, plan)))
    assert np.array_equal(found, expected.labels)
    assert found.max() > 1


@pytest.mark.slow
def test_what_fails_on_a_worker_is_reported(
    client: Any, slopes: Segmenter, blobs: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, blobs.astype(np.float32))
    (source,) = list_images(path)
    with source.open_regions() as read:
        plan = plan_slide(slopes, [read], source.shape, SegmentOptions(cell_type="a"))
    path.unlink()
    with pytest.raises(FlowsegError, match=r"s\.tif: "):
        list(Cluster(client, slopes).segment(source, plan))


def name_or_die(_: Segmenter, image: ImageSource) -> str:
    if image.image_id == "b":
        scheduler = pytest.importorskip("distributed.scheduler")
        raise scheduler.KilledWorker("b", SimpleNamespace(address="tcp://w"), 3)
    assert image.path.is_absolute()
    return image.image_id


@pytest.mark.slow
def test_an_image_that_kills_its_workers_fails_alone(
    client: Any, slopes: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        tifffile.imwrite(f"{name}.tif", np.zeros((8, 8), np.uint8))
    images = [source for name in "abc" for source in list_images(f"{name}.tif")]
    outcomes = list(Cluster(client, slopes).map(images, name_or_die))
    assert [outcome.item for outcome in outcomes] == images
    assert [outcome.result for outcome in outcomes] == ["a", None, "c"]
    assert "died one after the other" in str(outcomes[1].error)


@pytest.mark.slow
def test_a_scheduler_is_reached_by_its_address(
    client: Any, slopes: Segmenter, blobs: np.ndarray, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "s.tif", blobs.astype(np.float32))
    with connect(client.scheduler.address, slopes) as cluster:
        found = labels_on(cluster, slopes, tmp_path / "s.tif", cell_type="a")
    assert np.array_equal(found, slopes.segment(blobs.astype(np.float32), cell_type="a").labels)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_a_scheduler_that_is_not_there_is_named(slopes: Segmenter, address: str) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    with (
        pytest.raises(FlowsegError, match=f"no Dask scheduler answers at '{address}'"),
        connect(address, slopes, timeout=0.5),
    ):
        pass


def test_sources_and_plans_travel_between_processes(
    slopes: Segmenter, blobs: np.ndarray, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "s.tif", blobs.astype(np.float32))
    (source,) = list_images(tmp_path / "s.tif")
    with source.open_regions() as read:
        plan = plan_slide(slopes, [read], source.shape, SegmentOptions(cell_type="a"))
    for value in (source, plan):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value


def test_errors_travel_between_processes() -> None:
    error = FlowsegError("is torn", file="a.tif", remedy="mend it")
    received = pickle.loads(pickle.dumps(error))
    assert (str(received), received.file, received.remedy) == (str(error), "a.tif", "mend it")
