"""Flows to labels: pixels follow the flows to sinks; sinks that are one cell are joined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg._jit import jit
from flowseg.flow.joining import join
from flowseg.flow.kernels import kernels
from flowseg.flow.quality import check_flows
from flowseg.flow.runs import find_runs

__all__ = ["flows_to_labels"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

_HOLE = 4  # pixels; larger ones are background that the cell winds around


def flows_to_labels(
    flows: ArrayLike,
    cellprob: ArrayLike,
    *,
    cellprob_threshold: float = 0.0,
    flow_threshold: float = 0.4,
    min_size: int = 15,
    niter: int = 200,
    device: str = "cpu",
) -> NDArray[np.int32]:
    """Cells from a flow field.

    Parameters
    ----------
    flows : (2, H, W) float32
        (dy, dx), about unit length inside cells.
    cellprob : (H, W) float32
        Logit of being a cell.
    cellprob_threshold : float
        A pixel is part of a cell where cellprob is above it.
    flow_threshold : float
        Cells with a flow error above it are dropped; 0 or less keeps them all.
    min_size : int
        Cells with fewer pixels are dropped.
    niter : int
        Steps a pixel follows the flows at most.
    device : str
        `cpu`, or a CUDA device such as `cuda`, with the same result but for rounding.

    Returns
    -------
    labels : (H, W) int32
        0 is background; ids 1..N without gaps, in reading order, each one connected piece.

    Raises
    ------
    FlowsegError
        Where a shape is wrong, shapes differ, a value is not finite, or the device is missing.
    """
    field, prob = check_flows(flows, cellprob)
    loops = kernels(device)
    labels: Ints = loops.find_basins(field, prob, cellprob_threshold, niter)
    runs = find_runs(labels, background=True)
    cells, areas, misfit = join(runs, field, flow_threshold > 0, loops.diffuse)
    if flow_threshold > 0:
        areas[misfit > flow_threshold * areas] = 0
    names = _name(runs, cells, areas, max(min_size, 1), labels.shape)
    _paint(runs, names, labels)
    return labels


@jit
def _name(runs: Any, cells: Any, areas: Any, min_size: int, shape: Any) -> Any:
    """The new id of each piece: 0 for background and what is dropped, 1.. in reading order.

    A small piece of background that only one cell touches is a hole and gets the cell's id.
    """
    rows, starts, stops, ids, pieces = runs.rows, runs.starts, runs.stops, runs.ids, runs.pieces
    count = cells.size
    around = np.full(
        count, -1, np.int32
    )  # the only cell around background, -2 where there are more
    solid = np.zeros(count, np.bool_)
    holes = np.zeros(count, np.int64)
    above = 0
    for k in range(pieces.size):
        p = pieces[k]
        if ids[k] != 0:
            solid[p] = True
        else:
            holes[p] += stops[k] - starts[k]
            if rows[k] == 0 or rows[k] == shape[0] - 1 or starts[k] == 0 or stops[k] == shape[1]:
                around[p] = -2
        if k > 0 and rows[k - 1] == rows[k]:
            _meet(around, cells, ids[k - 1], ids[k], pieces[k - 1], p)
        while rows[above] < rows[k] - 1 or (
            rows[above] == rows[k] - 1 and stops[above] <= starts[k]
        ):
            above += 1
        i = above
        while rows[i] == rows[k] - 1 and starts[i] < stops[k]:
            _meet(around, cells, ids[i], ids[k], pieces[i], p)
            i += 1
    full = areas.copy()
    for p in range(count):
        if holes[p] > _HOLE:
            around[p] = -2
        if not solid[p] and around[p] >= 0:
            full[around[p]] += holes[p]
    names = np.zeros(count, np.int32)
    number = 0
    for p in range(count):
        if solid[p]:
            cell = cells[p]
            if areas[cell] > 0 and full[cell] >= min_size:
                if names[cell] == 0:
                    number += 1
                    names[cell] = number
                names[p] = names[cell]
    for p in range(count):
        if not solid[p] and around[p] >= 0:
            names[p] = names[around[p]]
    return names


@jit
def _meet(around: Any, cells: Any, id_a: int, id_b: int, a: int, b: int) -> None:
    """Note that two pieces touch, where one is background and the other is not."""
    if (id_a == 0) == (id_b == 0):
        return
    hole, cell = (a, cells[b]) if id_a == 0 else (b, cells[a])
    if around[hole] == -1:
        around[hole] = cell
    elif around[hole] != cell:
        around[hole] = -2


@jit
def _paint(runs: Any, names: Any, labels: Any) -> None:
    for k in range(runs.rows.size):
        labels[runs.rows[k], runs.starts[k] : runs.stops[k]] = names[runs.pieces[k]]
