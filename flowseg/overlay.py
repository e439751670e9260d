"""Pictures a person looks at: instances drawn over the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowseg.files import load_cv2
from flowseg.labels import outlines

__all__ = ["draw_overlay", "side_by_side"]

_GOLDEN = 0.618033988749895


def draw_overlay(image: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Outlines of instances over a grey image, neighbours in different colours.

    Parameters
    ----------
    image : ndarray, shape (H, W), float32
        Normalised; shown from 0 (black) to 1 (white).
    labels : ndarray, shape (H, W), int32
        0 = background.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
        RGB.
    """
    grey = np.clip(image * 255, 0, 255).astype(np.uint8)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    edge = outlines(labels)
    picture[edge] = _colours(int(labels.max(initial=0)))[labels[edge]]
    return picture


def side_by_side(
    image: NDArray[np.float32], labels: NDArray[np.int32], truth: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """The prediction on the left and the truth on the right, over the same image.

    Parameters
    ----------
    image : ndarray, shape (H, W), float32
        Normalised.
    labels, truth : ndarray, shape (H, W), int32
        0 = background.

    Returns
    -------
    ndarray, shape (H, 2 W + 8, 3), uint8
        RGB.
    """
    gap = np.full((image.shape[0], 8, 3), 255, np.uint8)
    return np.hstack((draw_overlay(image, labels), gap, draw_overlay(image, truth)))


def _colours(count: int) -> NDArray[np.uint8]:
    """`count` + 1 colours; ids that follow each other lie far apart on the colour wheel."""
    hue = (np.arange(count + 1) * _GOLDEN % 1 * 180).astype(np.uint8)
    full = np.full_like(hue, 255)
    wheel = np.stack((hue, full - 55, full), axis=1)[None]
    cv2 = load_cv2()
    return np.asarray(cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB)[0], np.uint8)
