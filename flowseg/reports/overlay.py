"""Pictures a person looks at: instances drawn over the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import outlines
from flowseg.io.opencv import load_cv2

__all__ = ["draw_cellprob", "draw_flows", "draw_overlay", "neighbour_colours", "side_by_side"]

# Apart from each other and from grey, in this order for cells with ever more neighbours.
_PALETTE = np.array(
    [
        *((255, 75, 75), (70, 200, 255), (255, 214, 10), (110, 230, 90), (255, 120, 230)),
        *((90, 120, 255), (255, 150, 40), (60, 230, 190), (190, 110, 255), (215, 255, 120)),
        *((255, 170, 170), (150, 220, 255)),
    ],
    np.uint8,
)
_NEAR = 4  # pixels; cells closer than this are neighbours


def draw_overlay(image: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Outlines of instances over a grey image; no two neighbours have the same colour.

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
    picture[edge] = _PALETTE[neighbour_colours(labels)[edge]]
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


def neighbour_colours(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """The number of a colour for each pixel's cell, another one than its neighbours have.

    Cells take turns by their numbers; each starts at another place of the palette and takes the
    first colour that no neighbour has, or the rarest among them where all are taken.

    Examples
    --------
    >>> found = neighbour_colours(np.array([[1, 1, 0, 13, 25]], np.int32))[0]
    >>> len({int(found[0]), int(found[3]), int(found[4])})
    3
    """
    ids, flat = np.unique(labels, return_inverse=True)
    place = flat.reshape(labels.shape)
    near: list[set[int]] = [set() for _ in ids]
    for a, b in _neighbours(place, int(ids[0] == 0) if len(ids) else 0):
        near[a].add(b)
        near[b].add(a)
    colours = np.full(len(ids), -1)
    for cell in range(len(ids)):
        taken = np.bincount(
            [colours[other] for other in near[cell] if colours[other] >= 0],
            minlength=len(_PALETTE),
        )
        turned = np.roll(taken, -cell)
        colours[cell] = (int(turned.argmin()) + cell) % len(_PALETTE)
    return colours[place]


def _neighbours(place: NDArray[np.int64], first: int) -> list[tuple[int, int]]:
    """Pairs of cells with pixels less than `_NEAR` apart along a row, a column or a diagonal."""
    pairs = []
    for step in range(1, _NEAR):
        for dy, dx in ((0, step), (step, 0), (step, step), (step, -step)):
            height, width = place.shape
            left, right = max(0, -dx), max(0, dx)
            a = place[: max(0, height - dy), left : max(left, width - right)]
            b = place[dy:, right : max(right, width - left)]
            apart = (a != b) & (a >= first) & (b >= first)
            pairs.append(np.stack([a[apart], b[apart]], axis=1))
    return [(int(a), int(b)) for a, b in np.unique(np.concatenate(pairs), axis=0)]
