"""Flow fields on a device: rescaled and turned into labels there, copied to the host last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flowseg.arrays.intensity import normalize
from flowseg.errors import FlowsegError
from flowseg.inference import rescale
from flowseg.inference.flow_field import (
    DeviceField,
    compute_labels,
    load_fields,
    save_fields,
)
from flowseg.inference.options import settings_for
from flowseg.inference.segmenter import Segmenter
from flowseg.inference.tiles import predict_rescaled


@pytest.mark.parametrize("shape", [(30, 52), (60, 20), (11, 70), (15, 15), (40, 30)])
def test_a_device_rescales_as_the_compiled_loops_do(shape: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).standard_normal((3, 40, 30), np.float32)
    expected = np.stack([rescale.rescale(plane, shape) for plane in maps])
    found = rescale._blend_on_device(torch.from_numpy(maps), shape).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_field_of_the_right_size_is_not_copied() -> None:
    maps = torch.rand(3, 8, 9)
    field = DeviceField(maps, np.zeros(1, np.float32), maps[0]).resized((8, 9))
    assert field.maps is maps
    assert field.to_host().flows.ctypes.data == maps.data_ptr()
    smaller = field.resized((4, 3))
    assert smaller.disagreement is not None
    assert torch.equal(smaller.disagreement, smaller.maps[0])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_finds_what_the_cpu_finds(slopes: Segmenter, blobs: np.ndarray) -> None:
    expected = slopes.segment(blobs, cell_type="a").labels
    settings = settings_for(slopes.card, "a")
    assert settings.diameter is not None
    grey = normalize(blobs.astype(np.float32))
    host = predict_rescaled(slopes.ensemble, grey, settings.diameter)
    labels, _ = compute_labels(host._replace(maps=host.maps.cuda()), blobs.shape, settings)
    assert np.mean(labels == expected) > 0.999


def test_fields_come_back_as_half_floats(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flows, cellprob = rng.normal(size=(2, 9, 11)), rng.normal(size=(9, 11))
    path = tmp_path / "a.npz"
    save_fields(path, flows, cellprob)
    loaded = load_fields(path)
    for saved, found in zip((flows, cellprob), loaded, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, saved.astype(np.float16))
    first = path.read_bytes()
    save_fields(path, flows, cellprob)
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "array", "pickle", "other"])
def test_fields_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    save_fields(path, np.zeros((2, 4, 4)), np.zeros((4, 4)))
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "text":
        path.write_text("no field")
    elif damage in ("array", "pickle"):
        with path.open("wb") as file:
            np.save(file, np.array([{}]) if damage == "pickle" else np.zeros(3))
    else:
        np.savez(path, flows=np.zeros((2, 4, 4)))
    with pytest.raises(FlowsegError, match="no flow field") as caught:
        load_fields(path)
    assert caught.value.file is not None
