"""Connected components of an image of values."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowseg.arrays.jit import jit


@jit
def find_root(parents: Any, pixel: int) -> int:
    """The root of a pixel in a union-find forest; path halving (Tarjan and van Leeuwen, 1984)."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


@jit
def connected_components(image: Any, corners: bool) -> Any:
    """Connected components of equal value, numbered from 1 in reading order; 0 stays 0.

    `corners` connects 8 neighbours, else 4.
    """
    height, width = image.shape
    parents = np.arange(height * width)
    for y in range(height):
        for x in range(width):
            value = image[y, x]
            if value == 0:
                continue
            root = find_root(parents, y * width + x)
            for dy, dx in ((0, -1), (-1, 0), (-1, -1), (-1, 1)):
                v, u = y + dy, x + dx
                if (dy != 0 and dx != 0 and not corners) or v < 0 or u < 0 or u >= width:
                    continue
                if image[v, u] == value:
                    other = find_root(parents, v * width + u)
                    # the smaller root wins, so a root is the component's first pixel
                    parents[max(root, other)] = min(root, other)
                    root = min(root, other)
    components = np.zeros((height, width), np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            if image[y, x] != 0:
                root = find_root(parents, y * width + x)
                if root == y * width + x:
                    count += 1
                    components[y, x] = count
                else:
                    components[y, x] = components[root // width, root % width]
    return components
