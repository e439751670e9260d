"""Labels to flows: heat let into a cell's centre and spread inside the cell; its gradient, made unit length."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg._jit import in_threads, jit, threads
from flowseg.flow.runs import find_runs, group
from flowseg.labels import check_labels

__all__ = ["labels_to_flows"]

Floats = NDArray[np.float32]

# Heat enters with this strength, not 1, so that far pixels stay above what the type can hold.
_WARMTH = 1e18
_DEEP_WARMTH = 1e280


def labels_to_flows(labels: ArrayLike) -> Floats:
    """Unit vectors that lead every pixel of a cell to the cell's centre, inside the cell.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background, every other id one cell; ids may have gaps.

    Returns
    -------
    flows : (2, H, W) float32
        (dy, dx), of length 1 inside cells (0 at a pixel where the heat is flat, which its centre may
        be) and 0 outside.

    Raises
    ------
    FlowsegError
        Where labels is not a 2-D image of integers or has negative ids.
    """
    image = check_labels(labels)
    flows = np.zeros((2, *image.shape), dtype=np.float32)
    runs = find_runs(image)
    if runs.count == 0:
        return flows
    order, offsets = group(runs.pieces, runs.count)
    rows, starts, stops, ids = (field[order] for field in runs[:4])
    seeds, rounds, boxes = _plan(rows, starts, stops, ids, offsets)
    heavy = np.argsort(-_cost(boxes, rounds), kind="stable")
    tasks = min(runs.count, 8 * threads())
    in_threads(
        lambda t: _diffuse(
            heavy[t::tasks], rows, starts, stops, offsets, seeds, rounds, boxes, flows
        ),
        tasks,
    )
    return flows


def _cost(boxes: Any, rounds: Any) -> Any:
    return boxes[:, 2].astype(np.int64) * boxes[:, 3] * rounds


@jit
def _nearest(rows, starts, stops, lo, hi, y0, x0):  # type: ignore[no-untyped-def]
    """The pixel of runs lo..hi-1 nearest to (y0, x0), the first in reading order among equals."""
    best, best_y, best_x = np.inf, -1, -1
    for k in range(lo, hi):
        x = min(max(int(np.ceil(x0 - 0.5)), starts[k]), stops[k] - 1)
        distance = (rows[k] - y0) ** 2 + (x - x0) ** 2
        if distance < best:
            best, best_y, best_x = distance, rows[k], x
    return best, best_y, best_x


@jit
def _plan(rows, starts, stops, ids, offsets):  # type: ignore[no-untyped-def]
    """Centre (y, x), rounds, and box (top, left, height, width) of each piece.

    The piece nearest to the mean of its whole cell holds the cell's centre, and is given the rounds of
    the whole cell, as in the reference; every other piece is treated as a cell of its own.
    """
    pieces = offsets.size - 1
    boxes = np.empty((pieces, 4), np.int32)
    seeds = np.empty((pieces, 2), np.int32)
    rounds = np.empty(pieces, np.int32)
    sums = np.zeros((pieces, 3), np.float64)
    cells = np.empty(pieces, np.int32)
    for p in range(pieces):
        lo, hi = offsets[p], offsets[p + 1]
        left, right = starts[lo], stops[lo]
        for k in range(lo, hi):
            left, right = min(left, starts[k]), max(right, stops[k])
            length = stops[k] - starts[k]
            sums[p, 0] += length
            sums[p, 1] += float(length) * rows[k]
            sums[p, 2] += 0.5 * float(length) * (starts[k] + stops[k] - 1)
        boxes[p, 0], boxes[p, 1] = rows[lo], left
        boxes[p, 2], boxes[p, 3] = rows[hi - 1] + 1 - rows[lo], right - left
        cells[p] = ids[lo]
    order = np.argsort(cells, kind="mergesort")
    first = 0
    while first < pieces:
        last = first
        while last < pieces and cells[order[last]] == cells[order[first]]:
            last += 1
        _plan_cell(order[first:last], rows, starts, stops, offsets, sums, boxes, seeds, rounds)
        first = last
    return seeds, rounds, boxes


@jit
def _plan_cell(members, rows, starts, stops, offsets, sums, boxes, seeds, rounds):  # type: ignore[no-untyped-def]
    area, total_y, total_x = 0.0, 0.0, 0.0
    top, left, bottom, right = boxes[members[0], 0], boxes[members[0], 1], 0, 0
    for p in members:
        area += sums[p, 0]
        total_y += sums[p, 1]
        total_x += sums[p, 2]
        top, left = min(top, boxes[p, 0]), min(left, boxes[p, 1])
        bottom = max(bottom, boxes[p, 0] + boxes[p, 2])
        right = max(right, boxes[p, 1] + boxes[p, 3])
    best, main, seed_y, seed_x = np.inf, -1, -1, -1
    for p in members:
        distance, y, x = _nearest(
            rows, starts, stops, offsets[p], offsets[p + 1], total_y / area, total_x / area
        )
        earlier = y < seed_y or (y == seed_y and x < seed_x)
        if distance < best or (distance == best and earlier):
            best, main, seed_y, seed_x = distance, p, y, x
    for p in members:
        if p != main:
            mean_y, mean_x = sums[p, 1] / sums[p, 0], sums[p, 2] / sums[p, 0]
            _, y, x = _nearest(rows, starts, stops, offsets[p], offsets[p + 1], mean_y, mean_x)
            seeds[p, 0], seeds[p, 1] = y, x
            rounds[p] = 2 * (boxes[p, 2] + boxes[p, 3] + 4)
    seeds[main, 0], seeds[main, 1] = seed_y, seed_x
    rounds[main] = 2 * (bottom - top + right - left + 4)


@jit
def _diffuse(chosen, rows, starts, stops, offsets, seeds, rounds, boxes, flows):  # type: ignore[no-untyped-def]
    for p in chosen:
        lo, hi = offsets[p], offsets[p + 1]
        top, left, height, width = boxes[p]
        stride = width + 2
        heat = np.zeros((height + 2) * stride, np.float64)
        sums = np.zeros((height + 2) * stride, np.float64)
        inside = np.zeros((height + 2) * stride, np.float64)
        for k in range(lo, hi):
            base = (rows[k] - top + 1) * stride + 1 - left
            inside[base + starts[k] : base + stops[k]] = 1.0 / 9.0
        seed = (seeds[p, 0] - top + 1) * stride + seeds[p, 1] - left + 1
        n = heat.size
        for _ in range(rounds[p]):
            heat[seed] += 1e200
            for i in range(stride, n - stride):
                sums[i] = (heat[i - stride] + heat[i + stride]) + heat[i]
            for i in range(stride, n - stride):
                heat[i] = ((sums[i - 1] + sums[i + 1]) + sums[i]) * inside[i]
        for k in range(lo, hi):
            y = rows[k]
            base = (y - top + 1) * stride + 1 - left
            for x in range(starts[k], stops[k]):
                i = base + x
                dy = (heat[i + stride] - heat[i - stride]) / 1e150
                dx = (heat[i + 1] - heat[i - 1]) / 1e150
                norm = np.sqrt(dy * dy + dx * dx)
                if norm > 0:
                    flows[0, y, x] = dy / norm
                    flows[1, y, x] = dx / norm
