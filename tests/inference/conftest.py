"""A segmenter whose network is a formula, so that it finds real cells without training."""

from __future__ import annotations

import numpy as np
import pytest

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.inference.segmenter import Segmenter
from flowseg.network.checkpoint import Card
from flowseg.network.unet import FlowNetwork
from helpers.slopes import Slopes


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
