"""Sample data: an image of drawn neurons."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowseg.synthetic.render import draw_neurons

LayerData = tuple[Any, dict[str, Any], str]
"""What napari makes a layer of: its data, its attributes, its type."""


def drawn_neurons() -> list[LayerData]:
    """An image layer of 520 x 704 pixels, as large as those of the competition."""
    image, _ = draw_neurons((520, 704), "shsy5y", np.random.default_rng(0))
    return [(image, {"name": "drawn neurons"}, "image")]
