"""Drawn training data: an endless sequence of crops, each of a scene of its own."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.utils.data import Dataset

from flowseg.arrays.intensity import normalize
from flowseg.config.schema import Config
from flowseg.flow.representation import labels_to_flows
from flowseg.inference.rescale import rescale
from flowseg.io.opencv import load_cv2
from flowseg.synthetic.appearance import random_appearance
from flowseg.synthetic.render import Scene
from flowseg.training.augment import Labelled, vary_intensity
from flowseg.training.batches import Batch

_OTHER_SCALE = 2.5
"""Largest factor by which a crop is rescaled as if its cells had another diameter."""


class DrawnCrops(Dataset[Batch]):
    """An endless sequence of drawn crops; crop i is a function of the seed and i alone.

    Each has the appearance of another microscope and other cells. As in prediction they are
    normalised and rescaled from the size at which the camera would have taken them.
    """

    def __init__(self, config: Config) -> None:
        self._seed = config.seed
        self._augment = config.augment
        self._diameter = config.network.target_diameter
        self._normalization = config.normalization

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng([self._seed, 3, number])
        size = self._augment.crop_size
        margin = size // 8
        crop, labels = self._draw(size + 2 * margin, rng)
        inner = (slice(margin, margin + size), slice(margin, margin + size))
        flows = labels_to_flows(labels)
        return Batch(
            torch.from_numpy(vary_intensity(crop[inner], self._augment, rng))[None],
            torch.from_numpy(np.ascontiguousarray(flows[:, inner[0], inner[1]])),
            torch.from_numpy((labels[inner] > 0).astype(np.float32)),
            torch.tensor(0),
        )

    def _draw(self, edge: int, rng: np.random.Generator) -> Labelled:
        """A scene (edge, edge) at the network's scale."""
        appearance = random_appearance(rng)
        zoom = self._diameter / appearance.diameter * self._augment.scale ** rng.uniform(-1, 1)
        if rng.random() < self._augment.swap_scale_fraction:
            zoom *= _OTHER_SCALE ** rng.uniform(-1, 1)
        taken = max(32, math.ceil(edge / zoom))
        scene = Scene((taken, taken), appearance, rng)
        grey = normalize(scene.image().astype(np.float32), how=self._normalization)
        # OpenCV rescales no int32; float32 holds every id below 2**24 exactly.
        labels = load_cv2().resize(
            scene.labels().astype(np.float32),
            (edge, edge),
            interpolation=load_cv2().INTER_NEAREST_EXACT,
        )
        return rescale(grey, (edge, edge)), labels.astype(np.int32)
