"""Basins that are one cell, told by what the flows do where they touch and by whose flows fit.

Across the border of two cells the flows point apart; where noise or a narrow neck has split one
cell they run on. The mean jump of the flows along a contact tells most cases. Where it cannot (a
network's borders are soft), the flows that the two would have as one cell are compared with those
that each would have on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import find_root
from flowseg.arrays.jit import jit
from flowseg.flow.runs import Runs, group

__all__ = ["join"]

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
FlowResiduals = Callable[[Ints, Longs], NDArray[np.float64]]

_CRUMB = 15  # pixels; smaller basins say nothing of their own and join whom they fit best
_CRUMB_JUMP = 0.6  # but not over a border
_SMOOTH_JUMP = 0.05  # below this mean jump the flows run on
_FIT_JUMP = 1.0  # above this one they do not
# Two cells are one where the flows fit the flows of one cell better than those of two, by a price
# (squared flow per pixel of the smaller) that rises with the jump and falls with noise, which the
# misfit of the two alone tells; or where they fit better by a share of that misfit and more.
_FIT_PRICE = 3.5
_FIT_NOISE = 1.2
_FIT_GAIN = 0.02
# An unsure network shrinks its flows, and shrunk flows fit anything.
_FIT_SURE = 0.6  # mean length of the flows of both
_FIT_FLOOR = 0.1  # cells this well explained on their own, in squared flow per pixel, stay
# A short contact tells little, and one of corners alone nothing (central differences do not see
# it): every contact is taken for this many pixels longer, with this jump.
_PRIOR_LENGTH = 2.0
_PRIOR_JUMP = 0.3


class _State:
    """The contacts of the cells as they are joined."""

    def __init__(self, runs: Runs, flows: Floats, flow_residuals: FlowResiduals) -> None:
        self.runs = runs
        self.flow_residuals = flow_residuals
        self.root = np.arange(runs.total, dtype=np.int32)
        inside = np.where(runs.ids != 0, runs.stops - runs.starts, 0)
        self.areas = np.bincount(runs.pieces, inside, runs.total).astype(np.int64)
        self.pairs, self.length, self.jump = _contacts(runs, flows)
        self.lengths = _lengths(runs, flows)
        self._merge_equal()

    def _merge_equal(self) -> None:
        """Add up the contacts of equal pairs; forget those within one cell."""
        a, b = self.root[self.pairs[0]], self.root[self.pairs[1]]
        low, high = np.minimum(a, b), np.maximum(a, b)
        keep = np.flatnonzero(low != high)
        keys = low[keep].astype(np.int64) * self.root.size + high[keep]
        keys, inverse = np.unique(keys, return_inverse=True)
        self.length = np.bincount(inverse, self.length[keep], keys.size)
        self.jump = np.bincount(inverse, self.jump[keep], keys.size)
        self.pairs = np.stack(np.divmod(keys, self.root.size)).astype(np.int32)

    def mean_jump(self) -> NDArray[np.float64]:
        """The mean jump of each contact, drawn towards the prior where it is short."""
        total = self.jump + _PRIOR_LENGTH * _PRIOR_JUMP
        mean: NDArray[np.float64] = total / (self.length + _PRIOR_LENGTH)
        return mean

    def join(self, cost: NDArray[np.float64]) -> Ints:
        """Join pairs by cost, lowest first as far as neighbours allow; return the cells changed.

        A pair is joined where each is the other's best, or where it is the best of a crumb.
        """
        changed: Ints = _join_best(self.pairs, cost, self.areas, self.root)
        if changed.size:
            self._merge_equal()
        return changed


def join(
    runs: Runs, flows: Floats, measure: bool, flow_residuals: FlowResiduals
) -> tuple[Ints, Longs, NDArray[np.float64]]:
    """Join pieces of one cell.

    Parameters
    ----------
    runs : Runs
        Of the image of basins; pieces with id 0 are background.
    flows : (2, H, W) float32
    measure : bool
        Whether the misfit of every cell is wanted.
    misfits : callable
        From (table, offsets) to sums, as
        :func:`flowseg.flow.residuals.flow_residuals` of these flows.

    Returns
    -------
    cells : (P,) int32
        For each piece, the piece that stands for its cell.
    areas : (P,) int64
        Pixels of the cell, at the piece that stands for it; 0 at the others and at background.
    misfit : (P,) float64
        Sum over the cell's pixels of the squared difference between the flows and those it would
        have, at the piece that stands for it; where not wanted, NaN for most.
    """
    state = _State(runs, flows, flow_residuals)
    while True:
        mean = state.mean_jump()
        areas = state.areas[state.pairs]
        limit = np.where(areas.min(axis=0) < _CRUMB, _CRUMB_JUMP, _SMOOTH_JUMP)
        cost = mean - 1e-9 * areas.max(axis=0)  # of equal neighbours the larger one
        if not state.join(np.where(mean < limit, cost, np.inf)).size:
            break
    alone = np.full(runs.total, np.nan)
    known: dict[int, float] = {}
    while True:
        mean = state.mean_jump()
        lengths = np.bincount(state.root, state.lengths, runs.total)[state.pairs].sum(axis=0)
        sure = lengths > _FIT_SURE * state.areas[state.pairs].sum(axis=0)
        near = np.flatnonzero((mean < _FIT_JUMP) & sure)
        _fill_alone(state, np.unique(state.pairs[:, near]), alone)
        apart = alone[state.pairs].sum(axis=0)
        smaller = state.areas[state.pairs].min(axis=0)
        noise = apart / state.areas[state.pairs].sum(axis=0)
        price = (_FIT_PRICE * mean - _FIT_NOISE * noise) * smaller
        # what two cells could gain at most, were their flows as one cell perfect
        near = near[(apart > np.minimum(price, _FIT_FLOOR * smaller))[near]]
        pairs = state.pairs[:, near]
        together = _fits(state, pairs, known)
        cost = np.full(mean.size, np.inf)
        loss = together - apart[near] + np.minimum(price[near], _FIT_GAIN * apart[near])
        cost[near] = np.where(loss < 0, loss / smaller[near], np.inf)
        changed = state.join(cost)
        if not changed.size:
            break
        alone[changed] = np.nan
        stale = set(changed.tolist())
        known = {
            key: fit
            for key, fit in known.items()
            if not {key // runs.total, key % runs.total} & stale
        }
    if measure:
        _fill_alone(state, np.flatnonzero(state.areas).astype(np.int32), alone)
    return state.root, state.areas, alone


def _fill_alone(state: _State, cells: Ints, alone: Any) -> None:
    """Compute the misfits of these cells where they are not known yet."""
    cells = cells[np.isnan(alone[cells])]
    alone[cells] = _misfits(state, cells, np.zeros((2, 0), dtype=np.int32))


def _fits(state: _State, pairs: Ints, known: dict[int, float]) -> NDArray[np.float64]:
    """The misfits of pairs of cells as one cell, remembered in `known`."""
    keys = (pairs[0].astype(np.int64) * state.root.size + pairs[1]).tolist()
    fresh = [k for k, key in enumerate(keys) if key not in known]
    values = _misfits(state, np.zeros(0, dtype=np.int32), pairs[:, fresh])
    known.update((keys[k], value) for k, value in zip(fresh, values.tolist(), strict=True))
    return np.array([known[key] for key in keys], dtype=np.float64)


def _misfits(state: _State, singles: Ints, pairs: Ints) -> NDArray[np.float64]:
    if singles.size + pairs.shape[1] == 0:
        return np.zeros(0)
    runs = state.runs
    order, offsets = group(state.root[runs.pieces], runs.total)
    chosen, bounds = _gather(order, offsets, singles, pairs)
    table = np.stack((runs.rows, runs.starts, runs.stops, runs.pieces))[:, chosen]
    table[3] = np.repeat(np.arange(bounds.size - 1), np.diff(bounds))
    return state.flow_residuals(table, bounds)


@jit
def _gather(order: Any, offsets: Any, singles: Any, pairs: Any) -> Any:
    """The runs of some cells and of some pairs of cells, in reading order within each."""
    count = singles.size + pairs.shape[1]
    bounds = np.zeros(count + 1, np.int64)
    for k in range(singles.size):
        bounds[k + 1] = offsets[singles[k] + 1] - offsets[singles[k]]
    for k in range(pairs.shape[1]):
        a, b = pairs[0, k], pairs[1, k]
        total = offsets[a + 1] - offsets[a] + offsets[b + 1] - offsets[b]
        bounds[singles.size + k + 1] = total
    for k in range(count):
        bounds[k + 1] += bounds[k]
    chosen = np.empty(bounds[count], np.int32)
    for k in range(singles.size):
        first = offsets[singles[k]]
        for i in range(bounds[k + 1] - bounds[k]):
            chosen[bounds[k] + i] = order[first + i]
    for k in range(pairs.shape[1]):
        place = bounds[singles.size + k]
        i, i_end = offsets[pairs[0, k]], offsets[pairs[0, k] + 1]
        j, j_end = offsets[pairs[1, k]], offsets[pairs[1, k] + 1]
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and order[i] < order[j]):
                chosen[place] = order[i]
                i += 1
            else:
                chosen[place] = order[j]
                j += 1
            place += 1
    return chosen, bounds


@jit
def _lengths(runs: Any, flows: Any) -> Any:
    """The sum over each piece of the lengths of its flows."""
    total = np.zeros(runs.total, np.float64)
    for k in range(runs.rows.size):
        if runs.ids[k] != 0:
            y = runs.rows[k]
            for x in range(runs.starts[k], runs.stops[k]):
                total[runs.pieces[k]] += np.hypot(flows[0, y, x], flows[1, y, x])
    return total


@jit
def _contacts(runs: Any, flows: Any) -> Any:
    """Pieces that touch, how many pixels long, and the sum of the flows' jump."""
    rows, starts, stops, ids, pieces = runs.rows, runs.starts, runs.stops, runs.ids, runs.pieces
    most = 5 * rows.size  # one at the left, and above overlaps and corners of a planar graph
    pairs = np.empty((2, most), np.int32)
    length = np.empty(most, np.float64)
    jump = np.empty(most, np.float64)
    count = 0
    above = 0
    for k in range(rows.size):
        y = rows[k]
        while rows[above] < y - 1 or (rows[above] == y - 1 and stops[above] < starts[k]):
            above += 1
        if ids[k] == 0:
            continue
        if k > 0 and rows[k - 1] == y and stops[k - 1] == starts[k] and ids[k - 1] != 0:
            x = starts[k]
            pairs[0, count], pairs[1, count] = pieces[k - 1], pieces[k]
            length[count] = 1.0
            jump[count] = flows[1, y, x] - flows[1, y, x - 1]
            count += 1
        i = above
        while rows[i] == y - 1 and starts[i] <= stops[k]:
            if ids[i] != 0 and pieces[i] != pieces[k]:
                first, last = max(starts[i], starts[k]), min(stops[i], stops[k])
                total = 0.0
                for x in range(first, last):
                    total += flows[0, y, x] - flows[0, y - 1, x]
                pairs[0, count], pairs[1, count] = pieces[i], pieces[k]
                length[count], jump[count] = last - first, total
                count += 1
            i += 1
    return pairs[:, :count], length[:count], jump[:count]


@jit
def _join_best(pairs: Any, cost: Any, areas: Any, root: Any) -> Any:
    size = root.size
    best = np.full(size, np.inf)
    partner = np.full(size, -1, np.int32)
    for k in range(cost.size):
        a, b = pairs[0, k], pairs[1, k]
        if cost[k] < best[a]:
            best[a], partner[a] = cost[k], b
        if cost[k] < best[b]:
            best[b], partner[b] = cost[k], a
    changed = np.empty(size, np.int32)
    count = 0
    parent = np.arange(size).astype(np.int32)
    for a in range(size):
        b = partner[a]
        if b >= 0 and (partner[b] == a or areas[a] < _CRUMB):
            i, j = find_root(parent, a), find_root(parent, b)
            parent[max(i, j)] = min(i, j)
    for a in range(size):
        k = find_root(parent, a)
        if k != a:
            areas[k] += areas[a]
            areas[a] = 0
            changed[count] = k
            count += 1
    for k in range(size):
        root[k] = parent[root[k]]
    return np.unique(changed[:count])
