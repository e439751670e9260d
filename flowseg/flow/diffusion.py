"""Labels to flows: heat enters at a cell's centre and diffuses inside the cell; flows climb it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.jit import in_threads, jit, threads

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]

# Columns of a plan: where heat enters, for how many rounds, and the component's box.
SEED_Y, SEED_X, ROUNDS, TOP, LEFT, HEIGHT, WIDTH = range(7)

# Heat enters with this strength, not 1, so that far pixels stay within the numbers a type can hold;
# a pixel below 1 / strength is cold: too near the smallest numbers to be trusted.
WARMTH_SINGLE = np.float32(1e30)
WARMTH_DOUBLE = np.float64(1e290)

# Below this many pixel updates, starting threads takes longer than they save.
_WORTH_THREADS = 4_000_000


def diffuse(table: Ints, offsets: Longs, columns: Longs, flows: Floats) -> None:
    """Write the flows of connected components, given as runs, to columns of an array.

    `table` (4, R) holds row, start, stop, and cell of each run, by component, in reading order
    within each; `offsets` (P + 1,) where each component's runs begin; `columns` (R,) the column of
    `flows` (2, M) that the first pixel of each run is written to.
    """
    plan = make_plan(table, offsets)
    cost = plan[:, ROUNDS].astype(np.int64) * plan[:, HEIGHT] * plan[:, WIDTH]
    if cost.sum() < _WORTH_THREADS:
        _diffuse(np.arange(len(plan)), table, offsets, plan, columns, flows)
        return
    heavy = np.argsort(-cost, kind="stable")
    tasks = min(len(plan), 4 * threads())
    in_threads(lambda t: _diffuse(heavy[t::tasks], table, offsets, plan, columns, flows), tasks)


@jit
def _nearest(table: Any, lo: int, hi: int, y0: float, x0: float) -> Any:
    """The pixel of runs lo..hi-1 nearest to (y0, x0), the first in reading order among equals."""
    best, best_y, best_x = np.inf, -1, -1
    for k in range(lo, hi):
        x = min(max(int(np.ceil(x0 - 0.5)), table[1, k]), table[2, k] - 1)
        distance = (table[0, k] - y0) ** 2 + (x - x0) ** 2
        if distance < best:
            best, best_y, best_x = distance, table[0, k], x
    return best, best_y, best_x


@jit
def make_plan(table: Any, offsets: Any) -> Any:
    """Where heat enters each component, and for how long.

    The component nearest to the mean of its whole cell holds the cell's centre, and is given the
    rounds of the whole cell; every other component is treated as a cell of its own.
    """
    components = offsets.size - 1
    plan = np.empty((components, 7), np.int32)
    sums = np.zeros((components, 3), np.float64)  # area, sum of y, sum of x
    for p in range(components):
        lo, hi = offsets[p], offsets[p + 1]
        left, right = table[1, lo], table[2, lo]
        for k in range(lo, hi):
            start, stop = table[1, k], table[2, k]
            left, right = min(left, start), max(right, stop)
            length = float(stop - start)
            sums[p, 0] += length
            sums[p, 1] += length * table[0, k]
            sums[p, 2] += length * 0.5 * (start + stop - 1)
        plan[p, TOP], plan[p, LEFT] = table[0, lo], left
        plan[p, HEIGHT], plan[p, WIDTH] = table[0, hi - 1] + 1 - table[0, lo], right - left
        _, y, x = _nearest(table, lo, hi, sums[p, 1] / sums[p, 0], sums[p, 2] / sums[p, 0])
        plan[p, SEED_Y], plan[p, SEED_X] = y, x
        plan[p, ROUNDS] = 2 * (plan[p, HEIGHT] + plan[p, WIDTH] + 4)
    cells = table[3][offsets[:-1]]
    order = np.argsort(cells, kind="mergesort")
    first = 0
    for last in range(1, components + 1):
        if last == components or cells[order[last]] != cells[order[first]]:
            if last - first > 1:
                _plan_cell(order[first:last], table, offsets, sums, plan)
            first = last
    return plan


@jit
def _plan_cell(members: Any, table: Any, offsets: Any, sums: Any, plan: Any) -> None:
    """Give the component nearest to the mean of its cell the centre and the rounds of the cell."""
    area, total_y, total_x = 0.0, 0.0, 0.0
    top, left, bottom, right = 1 << 31, 1 << 31, 0, 0
    for p in members:
        area += sums[p, 0]
        total_y += sums[p, 1]
        total_x += sums[p, 2]
        top, left = min(top, plan[p, TOP]), min(left, plan[p, LEFT])
        bottom = max(bottom, plan[p, TOP] + plan[p, HEIGHT])
        right = max(right, plan[p, LEFT] + plan[p, WIDTH])
    best, main, seed_y, seed_x = np.inf, -1, -1, -1
    for p in members:
        lo, hi = offsets[p], offsets[p + 1]
        distance, y, x = _nearest(table, lo, hi, total_y / area, total_x / area)
        earlier = y < seed_y or (y == seed_y and x < seed_x)
        if distance < best or (distance == best and earlier):
            best, main, seed_y, seed_x = distance, p, y, x
    plan[main, SEED_Y], plan[main, SEED_X] = seed_y, seed_x
    plan[main, ROUNDS] = 2 * (bottom - top + right - left + 4)


@jit
def _diffuse(chosen: Any, table: Any, offsets: Any, plan: Any, columns: Any, flows: Any) -> None:
    """Write the flows of the chosen components.

    A component lies in a flat buffer of its box, one column wider, so that a row's last pixel and
    the next row's first are never neighbours; a row and a pixel of zeros come before and after it.
    """
    for p in chosen:
        box = plan[p]
        stride = box[WIDTH] + 1
        runs = table[:, offsets[p] : offsets[p + 1]]
        starts = columns[offsets[p] : offsets[p + 1]]
        inside = np.zeros((box[HEIGHT] + 2) * stride + 2, np.bool_)
        for k in range(runs.shape[1]):
            base = _index(box, stride, runs[0, k], 0)
            for i in range(base + runs[1, k], base + runs[2, k]):
                inside[i] = True
        single = np.zeros(inside.size, np.float32)
        if _diffuse_heat(single, inside, box, WARMTH_SINGLE):
            _climb(single, runs, box, starts, flows)
        else:
            double = np.zeros(inside.size, np.float64)
            warm = _diffuse_heat(double, inside, box, WARMTH_DOUBLE)
            _climb(double, runs, box, starts, flows)
            if not warm:
                _fill_cold(double, inside, runs, box, starts, flows)


@jit
def _index(box: Any, stride: int, y: int, x: int) -> Any:
    """Where in the buffer of a box the pixel (y, x) of the image lies."""
    return (y - box[TOP] + 1) * stride + x - box[LEFT] + 1


@jit
def _diffuse_heat(heat: Any, inside: Any, box: Any, warmth: Any) -> Any:
    """Spread heat for the rounds of the box, in place; return whether every pixel got warm."""
    stride = box[WIDTH] + 1
    size = box[HEIGHT] * stride
    first = stride + 1
    share = np.zeros(size, heat.dtype)
    for i in range(size):
        if inside[first + i]:
            share[i] = 1.0 / 9.0
    column = np.zeros(size + 2, heat.dtype)
    # slices, not offsets: an index that counts from 0 needs no check for wrapping and vectorizes
    above, centre, below = heat[1 : 1 + size], heat[first:][:size], heat[first + stride :][:size]
    left, middle, right = column[:size], column[1:][:size], column[2:]
    seed = _index(box, stride, box[SEED_Y], box[SEED_X]) - first
    for _ in range(box[ROUNDS]):
        centre[seed] += warmth
        for i in range(size):
            middle[i] = (above[i] + below[i]) + centre[i]
        for i in range(size):
            centre[i] = ((left[i] + right[i]) + middle[i]) * share[i]
    coldest = warmth
    for i in range(size):
        if share[i] > 0:
            coldest = min(coldest, centre[i])
    return coldest >= 1 / warmth


@jit
def _climb(heat: Any, runs: Any, box: Any, columns: Any, flows: Any) -> None:
    """Flows up the heat: central differences; where they vanish, towards the warmest neighbour."""
    stride = box[WIDTH] + 1
    for k in range(runs.shape[1]):
        base = _index(box, stride, runs[0, k], 0)
        for x in range(runs[1, k], runs[2, k]):
            i = base + x
            dy = np.float64(heat[i + stride]) - np.float64(heat[i - stride])
            dx = np.float64(heat[i + 1]) - np.float64(heat[i - 1])
            if dy == 0 and dx == 0:
                warmest = heat[i]
                for v in range(-1, 2):
                    for u in range(-1, 2):
                        if heat[i + v * stride + u] > warmest:
                            warmest = heat[i + v * stride + u]
                            dy, dx = np.float64(v), np.float64(u)
            _write(flows, columns[k] + x - runs[1, k], dy, dx)


@jit
def _write(flows: Any, column: int, dy: float, dx: float) -> None:
    scale = max(abs(dy), abs(dx))  # first, so that squares neither overflow nor underflow
    if scale > 0:
        dy, dx = dy / scale, dx / scale
        norm = np.sqrt(dy * dy + dx * dx)
        flows[0, column], flows[1, column] = dy / norm, dx / norm


@jit
def _fill_cold(heat: Any, inside: Any, runs: Any, box: Any, columns: Any, flows: Any) -> None:
    """Flows of cold pixels: along a shortest path inside the component to the warm ones."""
    stride = box[WIDTH] + 1
    depth = np.full(inside.size, -1, np.int32)  # steps to the warm pixels, -1 outside
    queue = np.empty(inside.size, np.int32)
    length = 0
    for i in range(inside.size):
        if inside[i] and heat[i] >= 1 / WARMTH_DOUBLE:
            depth[i] = 0
            queue[length] = i
            length += 1
    taken = 0
    while taken < length:
        i = queue[taken]
        taken += 1
        for v in range(-1, 2):
            for u in range(-1, 2):
                j = i + v * stride + u
                if inside[j] and depth[j] < 0:
                    depth[j] = depth[i] + 1
                    queue[length] = j
                    length += 1
    for k in range(runs.shape[1]):
        base = _index(box, stride, runs[0, k], 0)
        for x in range(runs[1, k], runs[2, k]):
            if depth[base + x] > 0:
                dy, dx = _step_to_warm(depth, base + x, stride)
                _write(flows, columns[k] + x - runs[1, k], dy, dx)


@jit
def _step_to_warm(depth: Any, i: int, stride: int) -> Any:
    """From pixel i towards the neighbours one step nearer: their mean where that is one of them."""
    dy, dx, last_y, last_x = 0, 0, 0, 0
    for v in range(-1, 2):
        for u in range(-1, 2):
            if depth[i + v * stride + u] == depth[i] - 1:
                dy, dx = dy + v, dx + u
                last_y, last_x = v, u
    mean = i + np.sign(dy) * stride + np.sign(dx)
    if depth[mean] == depth[i] - 1:
        return float(np.sign(dy)), float(np.sign(dx))
    return float(last_y), float(last_x)
