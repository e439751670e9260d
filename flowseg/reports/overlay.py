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
    """Outlines of instances over a grey image, in twelve colours by their ids.

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
    picture[edge] = _PALETTE[labels[edge] % len(_PALETTE)]
    return picture


def draw_flows(
    flows: NDArray[np.float32], inside: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """A flow field as colour: the hue is the direction, the brightness the length.

    Parameters
    ----------
    flows : ndarray, shape (2, H, W), float32
        Order (dy, dx), of about unit length inside cells. To the right is red, down is yellow
        green, left is cyan, up is violet.
    inside : ndarray, shape (H, W), bool, optional
        Where cells are; elsewhere it stays black.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
        RGB.
    """
    cv2 = load_cv2()
    angle = np.arctan2(flows[0], flows[1]) / (2 * np.pi) % 1
    length = np.clip(np.hypot(flows[0], flows[1]), 0, 1)
    value = length if inside is None else length * inside
    parts = (angle * 180 % 180, np.full_like(angle, 210), value * 255)
    wheel = np.stack(parts, axis=-1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB), np.uint8)


def draw_cellprob(cellprob: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The probability of a cell as heat: black is 0, red and yellow lie between, white is 1.

    Parameters
    ----------
    cellprob : ndarray, shape (H, W), float32
        A logit.

    Returns
    -------
    ndarray, shape (H, W, 3), uint8
        RGB.
    """
    cv2 = load_cv2()
    share = 1 / (1 + np.exp(-np.clip(cellprob, -30, 30)))
    heat = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_HOT)
    return np.ascontiguousarray(heat[..., ::-1], np.uint8)


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
