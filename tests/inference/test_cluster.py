"""What a cluster computes is what one machine computes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from flowseg.errors import FlowsegError
from flowseg.inference import cluster
from flowseg.inference.blocks import BlockSizes
from flowseg.inference.segmenter import Segmenter, SegmentOptions
from flowseg.inference.slides import plan_slide
from flowseg.io.image_source import list_images

pytestmark = pytest.mark.slow

RECIPE = cluster.Recipe(("model",), "key", "cpu", 1, False)


@pytest.fixture
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    # Workers in this process would count all its memory, each against its own share.
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    options["memory_limit"] = 0
    with distributed.Client(processes=False, **options) as made:
        yield made


def labels_of(
    client: Any, segmenter: Segmenter, path: Path, sizes: BlockSizes, cell_type: str
) -> np.ndarray:
    (page,) = list_images(path)
    with page.open_regions() as read:
        plan = plan_slide(segmenter, read, page.shape, SegmentOptions(cell_type=cell_type))
        workers = cluster.Cluster(client, RECIPE)
        return np.concatenate(list(workers.segment(segmenter, page, read, plan, sizes)))


@pytest.mark.parametrize("sizes", [BlockSizes(100, 90, 8.0), BlockSizes(60, 400, 8.0)])
@pytest.mark.parametrize("cell_type", ["a", "b"])
def test_a_cluster_finds_the_labels_of_the_whole(
    client: Any,
    slopes: Segmenter,
    blobs: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sizes: BlockSizes,
    cell_type: str,
) -> None:
    image = blobs.astype(np.float32)
    tifffile.imwrite(tmp_path / "s.tif", image, tile=(64, 64))
    loaded: list[cluster.Recipe] = []
    monkeypatch.setattr(cluster, "_loaded", lambda recipe: loaded.append(recipe) or slopes)
    found = labels_of(client, slopes, tmp_path / "s.tif", sizes, cell_type)
    assert np.array_equal(found, slopes.segment(image, cell_type=cell_type).labels)
    assert found.max() > 40
    assert set(loaded) == {RECIPE}
    assert len(loaded) > 10


def test_what_fails_on_a_worker_is_reported(
    client: Any,
    slopes: Segmenter,
    blobs: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(recipe: cluster.Recipe) -> Segmenter:
        raise FlowsegError("is not there", file=recipe.models[0], remedy="copy it")

    tifffile.imwrite(tmp_path / "s.tif", blobs.astype(np.float32))
    monkeypatch.setattr(cluster, "_loaded", absent)
    with pytest.raises(FlowsegError, match="model: is not there; copy it"):
        labels_of(client, slopes, tmp_path / "s.tif", BlockSizes(), "a")


def test_errors_travel_between_processes() -> None:
    error = FlowsegError("is torn", file="a.tif", remedy="mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.file, copy.remedy) == (str(error), "a.tif", "mend it")
