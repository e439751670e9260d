"""Label images as runs: stretches of one id within a row, joined into connected components.

An image of 500 cells has a few thousand runs, so what would take a pass over the image for every
cell (boxes, connected components, centres, holes) takes one pass over the runs for all of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import find_root
from flowseg.arrays.jit import jit

Ints = NDArray[np.int32]


class Runs(NamedTuple):
    """The runs of a label image in reading order, and the connected component each belongs to.

    Attributes
    ----------
    rows, starts, stops : (R,) int32
        A run covers columns start..stop-1 of its row.
    ids : (R,) int32
        The id in the image; 0 for background, where that was asked for.
    components : (R,) int32
        The component of each run, 0-based, numbered in reading order. Cells are connected by 8
        neighbours, background by 4.
    total : int
        Number of components.
    """

    rows: Ints
    starts: Ints
    stops: Ints
    ids: Ints
    components: Ints
    total: int


def find_runs(labels: Ints, background: bool = False) -> Runs:
    """Cut a label image into runs and join them into connected components.

    Parameters
    ----------
    labels : (H, W) int32
        C-contiguous, not negative.
    background : bool
        Whether id 0 has runs too.

    Examples
    --------
    >>> runs = find_runs(np.array([[5, 5, 0, 5], [0, 0, 5, 0]], dtype=np.int32))
    >>> runs.starts.tolist(), runs.stops.tolist(), runs.total
    ([0, 3, 2], [2, 4, 3], 1)
    """
    offsets = np.zeros(labels.shape[0] + 1, dtype=np.int64)
    _count_runs(labels, background, offsets)
    np.cumsum(offsets, out=offsets)
    table = np.empty((5, int(offsets[-1])), dtype=np.int32)
    _fill_runs(labels, background, offsets, table)
    count = _connect(table, offsets, np.empty(table.shape[1], dtype=np.int32))
    return Runs(table[0], table[1], table[2], table[3], table[4], int(count))


@jit
def group(keys: Ints, count: int) -> tuple[Ints, NDArray[np.int64]]:
    """Order positions by key, stable: those of key k are ``order[offsets[k]:offsets[k + 1]]``."""
    offsets = np.zeros(count + 1, np.int64)
    for k in range(keys.size):
        offsets[keys[k] + 1] += 1
    for k in range(count):
        offsets[k + 1] += offsets[k]
    position = offsets[:-1].copy()
    order = np.empty(keys.size, np.int32)
    for k in range(keys.size):
        order[position[keys[k]]] = k
        position[keys[k]] += 1
    return order, offsets


@jit
def _count_runs(labels: Ints, background: bool, counts: Any) -> None:
    for y in range(labels.shape[0]):
        row = labels[y]
        previous = np.int32(-1)
        for x in range(row.size):
            value = row[x]
            counts[y + 1] += np.int64((value != previous) & ((value != 0) | background))
            previous = value


@jit
def _fill_runs(labels: Ints, background: bool, offsets: Any, table: Any) -> None:
    for y in range(labels.shape[0]):
        row = labels[y]
        k = offsets[y]
        x = 0
        while x < row.size:
            value = row[x]
            start = x
            while x < row.size and row[x] == value:
                x += 1
            if value != 0 or background:
                table[0, k] = y
                table[1, k] = start
                table[2, k] = x
                table[3, k] = value
                k += 1


@jit
def _connect(table: Any, offsets: Any, parent: Ints) -> int:
    starts, stops, ids, components = table[1], table[2], table[3], table[4]
    for k in range(parent.size):
        parent[k] = k
    for y in range(1, offsets.size - 1):
        above = offsets[y - 1]
        for k in range(offsets[y], offsets[y + 1]):
            while above < offsets[y] and stops[above] < starts[k]:
                above += 1
            corner = np.int32(ids[k] != 0)
            i = above
            while i < offsets[y] and starts[i] <= stops[k]:
                if (
                    ids[i] == ids[k]
                    and starts[i] < stops[k] + corner
                    and starts[k] < stops[i] + corner
                ):
                    a, b = find_root(parent, i), find_root(parent, k)
                    parent[max(a, b)] = min(a, b)
                i += 1
    count = 0
    for k in range(parent.size):  # a parent comes before its children, so it is numbered already
        if parent[k] == k:
            components[k] = count
            count += 1
        else:
            components[k] = components[parent[k]]
    return count
