"""Overlays: instances, flow fields and cell probabilities as RGB images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import outlines
from flowseg.io.opencv import load_cv2

# Apart from each other and from grey.
_PALETTE = np.array(
    [
        *((255, 75, 75), (70, 200, 255), (255, 214, 10), (110, 230, 90), (255, 120, 230)),
        *((90, 120, 255), (255, 150, 40), (60, 230, 190), (190, 110, 255), (215, 255, 120)),
        *((255, 170, 170), (150, 220, 255)),
    ],
    np.uint8,
)


def draw_overlay(image: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Outlines of instances over a grey image, in twelve colours by their ids: (H, W, 3) uint8 RGB.

    The image is normalised, and shown from 0 (black) to 1 (white).
    """
    grey = np.clip(image * 255, 0, 255).astype(np.uint8)
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    edge = outlines(labels)
    picture[edge] = _PALETTE[labels[edge] % len(_PALETTE)]
    return picture


def draw_flows(
    flows: NDArray[np.float32], inside: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """A flow field (dy, dx) as colour, (2, H, W) -> (H, W, 3) uint8 RGB; black outside of cells.

    The hue is the direction: to the right is red, down yellow green, left cyan, up violet. The
    brightness is the length, about 1 in cells.
    """
    cv2 = load_cv2()
    angle = np.arctan2(flows[0], flows[1]) / (2 * np.pi) % 1
    length = np.clip(np.hypot(flows[0], flows[1]), 0, 1)
    value = length if inside is None else length * inside
    parts = (angle * 180 % 180, np.full_like(angle, 210), value * 255)
    wheel = np.stack(parts, axis=-1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB), np.uint8)


def draw_cellprob(cellprob: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) logits of a cell as heat: probability 0 is black, 1 is white; (H, W, 3) uint8 RGB."""
    cv2 = load_cv2()
    share = 1 / (1 + np.exp(-np.clip(cellprob, -30, 30)))
    heat = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_HOT)
    return np.ascontiguousarray(heat[..., ::-1], np.uint8)


def side_by_side(
    image: NDArray[np.float32], labels: NDArray[np.int32], truth: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """The prediction on the left and the truth on the right: (H, 2 W + 8, 3) uint8 RGB."""
    gap = np.full((image.shape[0], 8, 3), 255, np.uint8)
    return np.hstack((draw_overlay(image, labels), gap, draw_overlay(image, truth)))
