"""A segmenter whose network is a formula, so that it finds real cells without training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.inference.flow_field import DeviceField
from flowseg.inference.segmenter import Segmenter
from flowseg.network.checkpoint import Card
from flowseg.network.unet import FlowNetwork


class Slopes:
    """Predicts the slopes of the blurred image, so that bright blobs are cells."""

    device = torch.device("cpu")
    diameter, stride, halo, tile = 30.0, 8, 24, 128

    def styles(self, _: object) -> None:
        """It has none."""

    def predict(
        self, images: np.ndarray, disagreement: bool = False, styles: None = None
    ) -> list[DeviceField]:
        assert not disagreement
        assert styles is None
        blurred = gaussian_filter(images.astype(np.float64), (0, 3, 3), truncate=6)
        slopes = np.stack(np.gradient(blurred, axis=(1, 2)), axis=1)
        slopes /= np.linalg.norm(slopes, axis=1, keepdims=True) + 1e-3
        maps = np.concatenate((slopes, blurred[:, None] - 0.5), axis=1)
        logits = np.stack((blurred.mean((1, 2)), -blurred.mean((1, 2))), axis=1)
        tensor = torch.from_numpy(maps.astype(np.float32))
        return list(map(DeviceField, tensor, logits.astype(np.float32)))


@pytest.fixture
def slopes() -> Segmenter:
    """A segmenter that needs no training."""
    config = NetworkConfig(channels=(4, 6), blocks_per_level=1)
    cells = {"a": CellTypeSettings(diameter=17.0), "b": CellTypeSettings(diameter=41.0)}
    made = Segmenter(FlowNetwork(config, 2), Card(config, cells), "cpu", "float32")
    made.ensemble = Slopes()
    return made


@pytest.fixture
def blobs(rng: np.random.Generator) -> np.ndarray:
    """Blobs, many of them touching."""
    image = np.zeros((420, 320))
    y, x = np.indices(image.shape)
    for _ in range(350):
        place, size = rng.random(2) * image.shape, rng.uniform(2, 9, 2)
        image += np.exp(-(((y - place[0]) / size[0]) ** 2) - ((x - place[1]) / size[1]) ** 2)
    return np.minimum(image, 1.5) + rng.normal(0, 0.02, image.shape)
