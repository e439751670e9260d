"""Dynamics: each pixel follows the flows for a few steps, then the pixel it has come to.

As in Cellpose (Stringer et al., Nature Methods 18, 2021) pixels move by Euler steps along the
bilinearly interpolated flows to the sink of their cell. Here only the first steps are taken so;
then the map from pixels to pixels is composed with itself, which doubles the steps each time
(pointer jumping: Hillis and Steele, Communications of the ACM 29, 1986), and no step crosses a
contact at which the flows diverge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import find_root
from flowseg.arrays.jit import in_threads, jit, threads

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

STEPS = 4  # Euler steps before pixels point at pixels
# Between two cells the flows diverge, from one pixel to the next by more than this (the 99.9th
# percentile inside cells is 0.2, with smooth noise of 0.6 it is 0.33; across borders 98% are above
# 0.5); no pixel steps over such a wall.
WALL = np.float32(0.45)
# Adjacent sinks are one where the divergence of the flows between them is below this.
_MAX_SINK_DIVERGENCE = np.float32(0.05)
_CHUNK = 8192  # pixels a thread takes at a time


def follow_flows(flows: Floats, cellprob: Floats, threshold: float, niter: int) -> Ints:
    """Number the sinks, and label each pixel with the sink it comes to.

    Parameters
    ----------
    flows : (2, H, W) float32
    cellprob : (H, W) float32
    threshold : float
        Pixels with cellprob above it are followed.
    niter : int
        Steps at most, rounded up to 4 times a power of 2.

    Returns
    -------
    basins : (H, W) int32
        0 is background; 1, 2, ... in reading order of the basins' first pixels.
    """
    basins: Ints
    basins, pixels = rank_foreground(cellprob, np.float32(threshold))
    count = pixels.size
    starts = range(0, count, _CHUNK) if threads() > 1 else range(0, count, max(1, count))
    size = _CHUNK if threads() > 1 else count
    ends = np.empty(count, dtype=np.int32)
    in_threads(
        lambda t: _euler_steps(flows, basins, pixels[t : t + size], ends[t : t + size]), starts
    )
    for _ in range(doublings(niter)):
        composed = np.empty_like(ends)
        if not _compose(ends, composed):
            break
        ends = composed
    label_sinks(ends, flows, pixels, basins)
    return basins


def doublings(niter: int) -> int:
    """How often the map of pixels is composed with itself for `niter` steps."""
    return int(np.ceil(np.log2(max(1.0, niter / STEPS))))


@jit
def rank_foreground(cellprob: Any, threshold: Any) -> Any:
    """The rank of each foreground pixel from 1, 0 elsewhere; and the flat index of each of them."""
    ranks = np.empty(cellprob.shape, np.int32)
    flat, probs = ranks.reshape(-1), cellprob.reshape(-1)
    count = 0
    for i in range(flat.size):
        inside = probs[i] > threshold
        count += int(inside)
        flat[i] = count if inside else 0
    pixels = np.empty(count, np.int32)
    for i in range(flat.size):
        if flat[i] > 0:
            pixels[flat[i] - 1] = i
    return ranks, pixels


@jit
def _divergence(flows: Any, y: int, x: int, v: int, u: int) -> Any:
    """Divergence of the flows between the pixels (y, x) and (y + v, x + u): difference along it."""
    divergence = (flows[0, y + v, x + u] - flows[0, y, x]) * np.float32(v)
    divergence += (flows[1, y + v, x + u] - flows[1, y, x]) * np.float32(u)
    if v != 0 and u != 0:
        divergence *= np.float32(np.sqrt(0.5))
    return divergence


@jit(error_model="numpy")
def _euler_steps(flows: Any, ranks: Any, pixels: Any, ends: Any) -> None:
    """Euler steps of at most one pixel, up to a wall, a fixed point, or the foreground's edge."""
    height, width = ranks.shape
    one, half = np.float32(1), np.float32(0.5)
    bottom, right = np.float32(height - 1), np.float32(width - 1)
    for k in range(pixels.size):
        row, column = pixels[k] // width, pixels[k] % width
        y, x = np.float32(row), np.float32(column)
        dy, dx = flows[0, row, column], flows[1, row, column]
        for step in range(STEPS):
            if step > 0:
                i, j = np.uint32(y), np.uint32(x)
                i1, j1 = min(i + 1, height - 1), min(j + 1, width - 1)
                v, u = y - np.float32(i), x - np.float32(j)
                a, b, c, d = (one - v) * (one - u), (one - v) * u, v * (one - u), v * u
                dy = (a * flows[0, i, j] + d * flows[0, i1, j1]) + (
                    b * flows[0, i, j1] + c * flows[0, i1, j]
                )
                dx = (a * flows[1, i, j] + d * flows[1, i1, j1]) + (
                    b * flows[1, i, j1] + c * flows[1, i1, j]
                )
            length = dy * dy + dx * dx
            if length > one:
                dy, dx = dy / np.sqrt(length), dx / np.sqrt(length)
            y, x = min(max(y + dy, np.float32(0)), bottom), min(max(x + dx, np.float32(0)), right)
            v, u = np.int32(y + half) - row, np.int32(x + half) - column
            if v != 0 or u != 0:
                if ranks[row + v, column + u] == 0 or _divergence(flows, row, column, v, u) > WALL:
                    break
                row, column = row + v, column + u
        ends[k] = ranks[row, column] - 1


@jit
def _compose(ends: Any, composed: Any) -> bool:
    changed = 0
    for k in range(ends.size):
        composed[k] = ends[ends[k]]
        changed += int(composed[k] != ends[k])
    return changed > 0


@jit
def label_sinks(ends: Any, flows: Any, pixels: Any, basins: Any) -> None:
    """Merge adjacent sinks whose flows do not diverge; replace ranks by numbers of sinks."""
    height, width = basins.shape
    parent = np.full(ends.size, -1, np.int32)
    for k in range(ends.size):
        parent[ends[k]] = ends[k]
    for k in range(ends.size):
        if parent[k] < 0:
            continue
        y, x = pixels[k] // width, pixels[k] % width
        for v, u in ((0, 1), (1, -1), (1, 0), (1, 1)):
            if y + v < height and 0 <= x + u < width and basins[y + v, x + u] > 0:
                other = basins[y + v, x + u] - 1
                if parent[other] >= 0 and _divergence(flows, y, x, v, u) < _MAX_SINK_DIVERGENCE:
                    a, b = find_root(parent, k), find_root(parent, other)
                    parent[max(a, b)] = min(a, b)
    numbers = np.zeros(ends.size, np.int32)
    count = 0
    flat = basins.reshape(-1)
    for k in range(ends.size):
        sink = find_root(parent, ends[k])
        if numbers[sink] == 0:
            count += 1
            numbers[sink] = count
        flat[pixels[k]] = numbers[sink]
