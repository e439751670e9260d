"""Cellpose's size models: the diameter of an image's cells from the style of its network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError
from flowseg.io.npy_dictionary import read_npy_dictionary
from flowseg.io.paths import PathLike

_OURS = ".safetensors"
_SMALLEST = 5.0
_REMEDY = "move the file away, and diameters are measured without it"


@dataclass(frozen=True, kw_only=True)
class SizeModel:
    """A linear regression of the logarithm of the diameter on the style."""

    weights: NDArray[np.float64]
    mean_style: NDArray[np.float64]
    mean_log: float
    """Of the diameter, over `target_diameter`."""
    target_diameter: float

    def diameter(self, style: NDArray[np.float32]) -> float:
        """The diameter, in pixels, of an image of that style (C,).

        The style is that of the image rescaled by the network's `diam_mean` over the mean diameter
        that it was trained on, as Cellpose does.
        """
        log = float(self.weights @ (style - self.mean_style)) + self.mean_log
        return max(_SMALLEST, self.target_diameter * math.exp(min(log, 10.0)))


def size_model_beside(model: PathLike, style_length: int) -> SizeModel | None:
    """The size model of a model of Cellpose: ``size_NAME.npy`` beside it, None where it is not.

    Raises FlowsegError if the file is damaged or fits another network.
    """
    path = Path(model)
    path = path.with_name(f"size_{path.name.removesuffix(_OURS)}.npy")
    if not path.is_file():
        return None
    found = read_npy_dictionary(path, _REMEDY)
    try:
        size_model = SizeModel(
            weights=np.asarray(found["A"], np.float64).reshape(-1),
            mean_style=np.asarray(found["smean"], np.float64).reshape(-1),
            mean_log=float(np.asarray(found["ymean"]).reshape(-1)[0]),
            target_diameter=float(np.asarray(found["diam_mean"]).reshape(-1)[0]),
        )
    except (LookupError, ValueError, TypeError) as error:
        raise FlowsegError(
            f"is no size model of Cellpose: {error!r}", file=path, remedy=_REMEDY
        ) from error
    numbers = np.concatenate([size_model.weights, size_model.mean_style])
    lengths = {size_model.weights.size, size_model.mean_style.size}
    if lengths != {style_length} or not np.isfinite(numbers).all():
        raise FlowsegError(
            f"is a size model of a network with styles of {max(lengths)} numbers, not "
            f"{style_length}",
            file=path,
            remedy=_REMEDY,
        )
    return size_model
