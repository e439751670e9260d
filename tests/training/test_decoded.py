"""Decoded images: the same with and without files, shared, renewed and refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flowseg.arrays.intensity import DEFAULT
from flowseg.arrays.rle import Masks
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.training.batches import CropDataset
from flowseg.training.decoded import IGNORED, DecodedImages
from flowseg.training.stage import Stage


def contents(images: DecodedImages, records: list[Record]) -> list[bytes]:
    return [array.tobytes() for record in records for array in images.get(record)]


def test_files_hold_what_memory_cannot_and_change_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = list(stage.training)
    folder = tmp_path / "decoded"
    in_memory = DecodedImages(records, 1024, DEFAULT, folder)
    assert not folder.exists()
    expected = contents(in_memory, records)
    first = DecodedImages(records, 0, DEFAULT, folder)
    assert contents(first, records) == expected
    assert len(list(folder.iterdir())) == len(records)
    # Another process, fold or run reads the files, and decodes nothing.
    monkeypatch.setattr(Record, "image", None)
    second = DecodedImages(records, 0, DEFAULT, folder)
    assert contents(second, records) == expected
    labels = second.get(records[0])[1]
    assert labels.dtype == np.int32


def test_what_has_changed_or_is_damaged_is_decoded_anew(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, other = stage.training[:2]
    folder = tmp_path / "decoded"
    images = DecodedImages([record, other], 0, DEFAULT, folder)
    expected = contents(images, [record])
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    images.get(other)  # and forget the first
    assert contents(images, [record]) == expected
    assert f"{file} cannot be read" in caplog.text
    kept = len(list(folder.iterdir()))
    os.utime(record.image_path, ns=(1, 1))
    images.get(other)
    images.get(record)
    assert len(list(folder.iterdir())) == kept + 1
    how = replace(stage.config.normalization, percentiles=(2.0, 98.0))
    DecodedImages([record], 0, how, folder).get(record)
    assert len(list(folder.iterdir())) == kept + 2


def test_a_disk_without_room_is_refused(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FlowsegError, match=r"the disk has 0\.0 GB left.*data\.cache_mb"):
        DecodedImages(stage.training, 0, DEFAULT, tmp_path / "decoded")


def test_pixels_of_a_crowd_are_ignored_off_cells(stage: Stage, tmp_path: Path) -> None:
    record = stage.training[0]
    labels = DecodedImages([record], 1, DEFAULT).get(record)[1]
    regions = np.zeros(record.shape, np.int32)
    regions[:, : record.shape[1] // 2] = 1
    crowded = replace(record, crowd=Masks.from_labels(regions))
    expected = np.where((regions > 0) & (labels == 0), IGNORED, labels)
    for limit in (1024, 0):
        images = DecodedImages([crowded], limit, DEFAULT, tmp_path / "decoded")
        for _ in range(2):
            assert np.array_equal(images.get(crowded)[1], expected)
    config = stage.config
    batch = CropDataset([crowded], replace(config, augment=replace(config.augment, scale=1.0)))[0]
    assert set(np.unique(batch.inside)) <= {-1.0, 0.0, 1.0}
    assert (batch.inside == -1).any()
    assert not batch.flows[:, batch.inside <= 0].any()
