"""Flows to labels: every pixel follows the flows to where they end; pixels that meet are one cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg._jit import in_threads, jit, threads
from flowseg.flow.quality import check_flows, flow_errors
from flowseg.flow.runs import find_runs

__all__ = ["flows_to_labels"]

_STILL = 1e-3  # a step shorter than this (pixels) has arrived
_REACH = 2  # ends at most this many pixels apart are one


def flows_to_labels(  # noqa: PLR0913
    flows: ArrayLike,
    cellprob: ArrayLike,
    *,
    cellprob_threshold: float = 0.0,
    flow_threshold: float = 0.4,
    min_size: int = 15,
    niter: int = 200,
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

    Returns
    -------
    labels : (H, W) int32
        0 is background; ids 1..N without gaps, in reading order, each one connected piece.

    Raises
    ------
    FlowsegError
        Where a shape is wrong, the shapes differ, or a value is not finite.
    """
    field, prob = check_flows(flows, cellprob)
    labels = np.zeros(prob.shape, dtype=np.int32)
    if prob.size == 0:
        return labels
    flat = np.flatnonzero(prob > cellprob_threshold).astype(np.int32)
    ends = np.empty(flat.size, dtype=np.int32)
    tasks = min(8 * threads(), max(1, flat.size // 1024))
    bounds = np.linspace(0, flat.size, tasks + 1).astype(np.int64)
    in_threads(
        lambda t: _follow(field, flat, int(bounds[t]), int(bounds[t + 1]), niter, ends), tasks
    )
    _join_ends(ends, flat, labels)
    _clean(labels, np.zeros(0, np.float32), 0.0, min_size)
    if flow_threshold > 0 and labels.any():
        _clean(labels, flow_errors(labels, field), flow_threshold, min_size)
    return labels


@jit
def _follow(flows: Any, flat: Any, first: int, last: int, niter: int, ends: Any) -> None:
    height, width = flows.shape[1:]
    for k in range(first, last):
        y0, x0 = flat[k] // width, flat[k] % width
        y, x = np.float32(y0), np.float32(x0)
        for _ in range(niter):
            i, j = int(y), int(x)
            i1, j1 = min(i + 1, height - 1), min(j + 1, width - 1)
            v, u = y - np.float32(i), x - np.float32(j)
            a, b = (np.float32(1) - v) * (np.float32(1) - u), (np.float32(1) - v) * u
            c, d = v * (np.float32(1) - u), v * u
            dy = (a * flows[0, i, j] + b * flows[0, i, j1]) + (
                c * flows[0, i1, j] + d * flows[0, i1, j1]
            )
            dx = (a * flows[1, i, j] + b * flows[1, i, j1]) + (
                c * flows[1, i1, j] + d * flows[1, i1, j1]
            )
            y = min(max(y + dy, np.float32(0)), np.float32(height - 1))
            x = min(max(x + dx, np.float32(0)), np.float32(width - 1))
            if dy * dy + dx * dx < np.float32(_STILL * _STILL):
                break
        ends[k] = int(y + np.float32(0.5)) * width + int(x + np.float32(0.5))


@jit
def _join_ends(ends: Any, flat: Any, labels: Any) -> None:
    """Number groups of end pixels that lie within reach of each other, and label where they began."""
    height, width = labels.shape
    group = np.zeros((height, width), np.int32)
    stack = np.empty(ends.size + 1, np.int32)
    for k in range(ends.size):
        group[ends[k] // width, ends[k] % width] = -1
    count = 0
    for k in range(ends.size):
        if group[ends[k] // width, ends[k] % width] != -1:
            continue
        count += 1
        group[ends[k] // width, ends[k] % width] = count
        stack[0] = ends[k]
        size = 1
        while size > 0:
            size -= 1
            y, x = stack[size] // width, stack[size] % width
            for i in range(max(0, y - _REACH), min(height, y + _REACH + 1)):
                for j in range(max(0, x - _REACH), min(width, x + _REACH + 1)):
                    if group[i, j] == -1:
                        group[i, j] = count
                        stack[size] = i * width + j
                        size += 1
    for k in range(ends.size):
        labels[flat[k] // width, flat[k] % width] = group[ends[k] // width, ends[k] % width]


def _clean(labels: Any, errors: Any, threshold: float, min_size: int) -> None:
    """Keep each cell's largest piece, fill its holes, drop small and bad cells, number what is left."""
    runs = find_runs(labels, background=True)
    names = _rename(
        labels.shape[1], *runs[:5], runs.count, errors, threshold, min_size, labels.shape[0]
    )
    _paint(runs.rows, runs.starts, runs.stops, names[runs.pieces], labels)


@jit
def _rename(width, rows, starts, stops, ids, pieces, count, errors, threshold, min_size, height):  # type: ignore[no-untyped-def]
    """The new id of each piece: 0 for what is dropped, 1.. in reading order."""
    areas = np.zeros(count, np.int64)
    cell = np.zeros(count, np.int32)
    around = np.full(
        count, -1, np.int32
    )  # of a background piece: its only neighbour, -2 for several
    top = 0
    for k in range(pieces.size):
        p = pieces[k]
        areas[p] += stops[k] - starts[k]
        cell[p] = ids[k]
        top = max(top, ids[k])
        if ids[k] == 0 and (
            rows[k] == 0 or rows[k] == height - 1 or starts[k] == 0 or stops[k] == width
        ):
            around[p] = -2
    largest = np.full(top + 1, -1, np.int32)
    for p in range(count):
        if cell[p] > 0 and (largest[cell[p]] < 0 or areas[p] > areas[largest[cell[p]]]):
            largest[cell[p]] = p
    above = 0
    for k in range(pieces.size):  # neighbours: left in the row, and overlapping runs one row up
        if k > 0 and rows[k - 1] == rows[k]:
            _meet(around, cell, pieces[k - 1], pieces[k])
        while rows[above] < rows[k] - 1 or (
            rows[above] == rows[k] - 1 and stops[above] <= starts[k]
        ):
            above += 1
        i = above
        while rows[i] == rows[k] - 1 and starts[i] < stops[k]:
            _meet(around, cell, pieces[i], pieces[k])
            i += 1
    for p in range(count):
        if cell[p] == 0 and around[p] >= 0:
            areas[around[p]] += areas[p]
    names = np.zeros(count, np.int32)
    number = 0
    for p in range(count):
        if cell[p] > 0 and largest[cell[p]] == p and areas[p] >= min_size:
            if errors.size > 0 and errors[cell[p] - 1] > threshold:
                continue
            number += 1
            names[p] = number
    for p in range(count):
        if cell[p] == 0 and around[p] >= 0:
            names[p] = names[around[p]]
    return names


@jit
def _meet(around: Any, cell: Any, a: int, b: int) -> None:
    for hole, piece in ((a, b), (b, a)):
        if cell[hole] == 0 and cell[piece] > 0:
            if around[hole] == -1:
                around[hole] = piece
            elif around[hole] != piece:
                around[hole] = -2


@jit
def _paint(rows: Any, starts: Any, stops: Any, names: Any, labels: Any) -> None:
    for k in range(rows.size):
        for x in range(starts[k], stops[k]):
            labels[rows[k], x] = names[k]
