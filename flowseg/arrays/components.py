"""Connected pieces of an image of values."""

from __future__ import annotations

from typing import Any

import numpy as np

from flowseg.arrays.jit import jit

__all__ = ["connected_components", "find_root"]


@jit
def find_root(parents: Any, pixel: int) -> int:
    """Where a chain of parents ends; the chain is halved on the way."""
    while parents[pixel] != pixel:
        parents[pixel] = parents[parents[pixel]]
        pixel = parents[pixel]
    return pixel


@jit
def connected_components(image: Any, corners: bool) -> Any:
    """Connected pieces of equal value, numbered from 1 in reading order; 0 stays 0."""
    height, width = image.shape
    parents = np.arange(height * width)
    for y in range(height):
        for x in range(width):
            value = image[y, x]
            if value == 0:
                continue
            here = find_root(parents, y * width + x)
            for dy, dx in ((0, -1), (-1, 0), (-1, -1), (-1, 1)):
                v, u = y + dy, x + dx
                if (dy != 0 and dx != 0 and not corners) or v < 0 or u < 0 or u >= width:
                    continue
                if image[v, u] == value:
                    there = find_root(parents, v * width + u)
                    # the smaller root wins, so a root is the piece's first pixel
                    parents[max(here, there)] = min(here, there)
                    here = min(here, there)
    pieces = np.zeros((height, width), np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            if image[y, x] != 0:
                root = find_root(parents, y * width + x)
                if root == y * width + x:
                    count += 1
                    pieces[y, x] = count
                else:
                    pieces[y, x] = pieces[root // width, root % width]
    return pieces
