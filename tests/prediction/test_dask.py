"""A prediction on a Dask cluster writes what one process writes, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowseg.formats.writers import Formats
from flowseg.io.images import read_image, write_image
from flowseg.io.paths import find_images
from flowseg.prediction import predict as predict_module
from flowseg.prediction.journal import Journal
from flowseg.prediction.predict import Distribution, Summary, predict
from flowseg.synthetic.datasets import write_synthetic_sartorius
from helpers.runs import differences, save_wild_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Two processes of one thread beside a scheduler; one that dies is started again."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(processes=True, **options) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes and a damaged one, and a network that finds cells."""
    home = tmp_path_factory.mktemp("home")
    write_synthetic_sartorius(home / "drawn", 7, 0, 1, (64, 64))
    images = home / "drawn" / "train"
    first = read_image(find_images(images)[0])
    write_image(images / "0_slide.tif", np.tile(first, (2, 1)))
    write_image(images / "m_slide.tif", np.tile(first, (1, 2)))
    write_image(images / "z_image.tif", first[:50, :60])
    (images / "damaged.png").write_bytes(b"no image")
    save_wild_network(home / "wild.safetensors")
    return home


def predict_all(home: Path, out: Path, dask: str | None = None) -> Summary:
    """Predict all images, of which the two largest are slides."""
    outputs = Formats(
        submission=out / "submission.csv",
        labels=out / "labels",
        overlays=out / "overlays",
        cells=out / "cells.csv",
        labels_format="zarr",
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers do: the bits depend on it
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predict_module, "_SLIDE", 5_000)
            return predict(
                home / "wild.safetensors",
                find_images(home / "drawn" / "train"),
                outputs,
                device="cpu",
                distribution=Distribution(dask=dask),
            )
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(home: Path) -> Summary:
    """What one process does."""
    return predict_all(home, home / "alone")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of images in the order they are journalled."""
    ids: list[str] = []
    add = Journal.add

    def note(journal: Journal, image_id: str, *arguments: Any) -> None:
        add(journal, image_id, *arguments)
        ids.append(image_id)

    monkeypatch.setattr(Journal, "add", note)
    return ids


def at(count: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something once, before the image of that number is journalled."""
    add, left = Journal.add, [count]

    def counted(journal: Journal, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            act()
        add(journal, *arguments)

    monkeypatch.setattr(Journal, "add", counted)


def test_a_worker_that_is_killed_changes_nothing(
    workers: Any,
    home: Path,
    alone: Summary,
    kept: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at(4, lambda: os.kill(workers.workers[0].pid, signal.SIGKILL), monkeypatch)
    shared = predict_all(home, tmp_path / "shared", workers.scheduler_address)
    assert shared.images == len(kept) == 10
    assert Counter(kept).most_common(1)[0][1] == 1
    assert [str(error) for error in shared.failed] == [str(error) for error in alone.failed]
    assert differences(home / "alone", tmp_path / "shared") == []


def test_a_job_that_was_stopped_goes_on(
    workers: Any,
    home: Path,
    alone: Summary,
    kept: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    at(6, stop, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        predict_all(home, tmp_path / "shared", workers.scheduler_address)
    assert len(kept) == 5
    predict_all(home, tmp_path / "shared", workers.scheduler_address)
    assert Counter(kept).most_common(1)[0][1] == 1
    assert differences(home / "alone", tmp_path / "shared") == []
