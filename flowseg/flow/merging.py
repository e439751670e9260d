"""Merging of basins that are one cell, decided by the flows at their contact and by the residuals.

Across the border of two cells the flows diverge; where noise or a narrow neck has split one cell
they run on. The mean divergence of the flows at a contact decides most cases. Where it does not (a
network's borders are soft), the residual of the two as one cell is compared with the sum of the
residuals of each on its own.

The rule and its constants are this package's own. Pairs merge as in agglomerative
clustering by reciprocal nearest neighbours (Murtagh, The Computer Journal 26, 1983): those that are
each other's best, all at once, again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import find_root
from flowseg.arrays.jit import jit
from flowseg.flow.runs import Runs, group

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
FlowResiduals = Callable[[Ints, Longs], Doubles]

FRAGMENT = 15  # pixels; smaller basins have no flows of their own and merge with their best contact
FRAGMENT_DIVERGENCE = 0.6  # but not across a border
CONTINUOUS = 0.05  # below this mean divergence the flows run on, and two basins are one cell
DIVERGENT = 1.0  # above this one they are two
# In between, two basins are one cell where their residual as one cell is below the sum of their own
# residuals by more than a penalty (squared flow per pixel of the smaller one), which rises with the
# divergence and falls with the noise (the mean of their own residuals); or by more than a share of
# that sum.
PENALTY = 3.5  # for each unit of divergence
PENALTY_NOISE = 1.2  # off for each unit of noise
MIN_GAIN = 0.02
# An unsure network shrinks its flows, and shrunk flows fit anything.
CONFIDENT = 0.6  # mean length of the flows of both
RESIDUAL_FLOOR = 0.1  # cells with residuals below it, in squared flow per pixel, stay as they are
# A short contact tells little, and one of corners alone nothing (central differences do not see
# it): the mean divergence is shrunk towards a prior, as if the contact were longer by so much.
PRIOR_LENGTH = 2.0
PRIOR_DIVERGENCE = 0.3


class _Basins:
    """Basins and their contacts while they merge.

    Attributes
    ----------
    root : (P,) int32
        For each component, the one that stands for its basin.
    areas : (P,) int64
        Pixels of each basin, at its root.
    pairs : (2, C) int32
        The roots of the basins that touch, the smaller one first.
    length, divergence : (C,) float64
        Pixels along each contact, and the sum over them of the divergence of the flows.
    """

    def __init__(self, runs: Runs, flows: Floats, flow_residuals: FlowResiduals) -> None:
        self.runs = runs
        self.flow_residuals = flow_residuals
        self.root = np.arange(runs.total, dtype=np.int32)
        foreground = np.where(runs.ids != 0, runs.stops - runs.starts, 0)
        self.areas = np.bincount(runs.components, foreground, runs.total).astype(np.int64)
        self.pairs, self.length, self.divergence = contacts(runs, flows)
        self.flow_lengths = _flow_lengths(runs, flows)
        self._update_contacts()

    def _update_contacts(self) -> None:
        """Add up the contacts of the same two basins; drop those within one basin."""
        a, b = self.root[self.pairs[0]], self.root[self.pairs[1]]
        low, high = np.minimum(a, b), np.maximum(a, b)
        between = np.flatnonzero(low != high)
        keys = low[between].astype(np.int64) * self.root.size + high[between]
        keys, inverse = np.unique(keys, return_inverse=True)
        self.length = np.bincount(inverse, self.length[between], keys.size)
        self.divergence = np.bincount(inverse, self.divergence[between], keys.size)
        self.pairs = np.stack(np.divmod(keys, self.root.size)).astype(np.int32)

    def mean_divergence(self) -> Doubles:
        """The mean divergence of each contact, shrunk towards the prior where it is short."""
        total = self.divergence + PRIOR_LENGTH * PRIOR_DIVERGENCE
        mean: Doubles = total / (self.length + PRIOR_LENGTH)
        return mean

    def merge(self, cost: Doubles) -> Ints:
        """Merge pairs by cost where it is finite; return the roots of the basins that grew.

        A pair merges where each is the other's cheapest, or where it is the cheapest of a fragment.
        """
        grown: Ints = _merge_cheapest(self.pairs, cost, self.areas, self.root)
        if grown.size:
            self._update_contacts()
        return grown


def merge_basins(
    runs: Runs, flows: Floats, residuals: bool, flow_residuals: FlowResiduals
) -> tuple[Ints, Longs, Doubles]:
    """Merge basins that are one cell.

    Parameters
    ----------
    runs : Runs
        Of the image of basins; components with id 0 are background.
    flows : (2, H, W) float32
    residuals : bool
        Whether the residual of every cell is wanted.
    flow_residuals : callable
        From (table, offsets) to sums, as
        :func:`flowseg.flow.residuals.flow_residuals` of these flows.

    Returns
    -------
    root : (P,) int32
        For each component, the one that stands for its cell.
    areas : (P,) int64
        Pixels of the cell at its root; 0 at other components and at background.
    residual : (P,) float64
        The cell's flow residual at its root; unless `residuals`, NaN for most.
    """
    basins = _Basins(runs, flows, flow_residuals)
    while _merge_continuous(basins).size:
        pass
    single = np.full(runs.total, np.nan)
    joint: dict[int, float] = {}
    while (grown := _merge_by_residual(basins, single, joint)).size:
        single[grown] = np.nan
        stale = set(grown.tolist())
        for key in [key for key in joint if not stale.isdisjoint(divmod(key, runs.total))]:
            del joint[key]
    if residuals:
        _fill_single(basins, np.flatnonzero(basins.areas).astype(np.int32), single)
    return basins.root, basins.areas, single


def _merge_continuous(basins: _Basins) -> Ints:
    """Merge pairs whose flows run on across the contact, and fragments."""
    mean = basins.mean_divergence()
    areas = basins.areas[basins.pairs]
    limit = np.where(areas.min(axis=0) < FRAGMENT, FRAGMENT_DIVERGENCE, CONTINUOUS)
    cost = mean - 1e-9 * areas.max(axis=0)  # of equal contacts the one with the larger basin
    return basins.merge(np.where(mean < limit, cost, np.inf))


def _merge_by_residual(basins: _Basins, single: Doubles, joint: dict[int, float]) -> Ints:
    """Merge pairs whose flows fit those of one cell; fill in the residuals that this needs.

    `single` holds the residuals of basins, NaN where not known; `joint` those of pairs as one cell.
    """
    count = basins.root.size
    mean = basins.mean_divergence()
    areas = basins.areas[basins.pairs]
    lengths = np.bincount(basins.root, basins.flow_lengths, count)[basins.pairs].sum(axis=0)
    confident = lengths > CONFIDENT * areas.sum(axis=0)
    candidates = np.flatnonzero((mean < DIVERGENT) & confident)
    _fill_single(basins, np.unique(basins.pairs[:, candidates]), single)
    separate = single[basins.pairs].sum(axis=0)
    smaller = areas.min(axis=0)
    noise = separate / areas.sum(axis=0)
    penalty = (PENALTY * mean - PENALTY_NOISE * noise) * smaller
    # The residual can fall by no more than `separate`, were the flows as one cell perfect.
    possible = separate > np.minimum(penalty, RESIDUAL_FLOOR * smaller)
    candidates = candidates[possible[candidates]]
    combined = _joint_residuals(basins, basins.pairs[:, candidates], joint)
    loss = combined - separate[candidates]
    loss += np.minimum(penalty[candidates], MIN_GAIN * separate[candidates])
    cost = np.full(mean.size, np.inf)
    cost[candidates] = np.where(loss < 0, loss / smaller[candidates], np.inf)
    return basins.merge(cost)


def _fill_single(basins: _Basins, roots: Ints, single: Doubles) -> None:
    """Compute the residuals of these basins where they are not known yet."""
    roots = roots[np.isnan(single[roots])]
    single[roots] = _residuals(basins, roots, np.zeros((2, 0), dtype=np.int32))


def _joint_residuals(basins: _Basins, pairs: Ints, joint: dict[int, float]) -> Doubles:
    """The residuals of pairs of basins as one cell, remembered in `joint`."""
    keys = (pairs[0].astype(np.int64) * basins.root.size + pairs[1]).tolist()
    missing = [k for k, key in enumerate(keys) if key not in joint]
    values = _residuals(basins, np.zeros(0, dtype=np.int32), pairs[:, missing])
    joint.update((keys[k], value) for k, value in zip(missing, values.tolist(), strict=True))
    return np.array([joint[key] for key in keys], dtype=np.float64)


def _residuals(basins: _Basins, singles: Ints, pairs: Ints) -> Doubles:
    """The residuals of some basins, then of some pairs of basins as one cell."""
    if singles.size + pairs.shape[1] == 0:
        return np.zeros(0)
    runs = basins.runs
    order, offsets = group(basins.root[runs.components], runs.total)
    chosen, bounds = _gather(order, offsets, singles, pairs)
    table = np.stack((runs.rows, runs.starts, runs.stops, runs.components))[:, chosen]
    table[3] = np.repeat(np.arange(bounds.size - 1), np.diff(bounds))
    return basins.flow_residuals(table, bounds)


@jit
def _gather(order: Any, offsets: Any, singles: Any, pairs: Any) -> Any:
    """The runs of some basins and of some pairs of basins, in reading order within each."""
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
        position = bounds[singles.size + k]
        i, i_end = offsets[pairs[0, k]], offsets[pairs[0, k] + 1]
        j, j_end = offsets[pairs[1, k]], offsets[pairs[1, k] + 1]
        while i < i_end or j < j_end:
            if j == j_end or (i < i_end and order[i] < order[j]):
                chosen[position] = order[i]
                i += 1
            else:
                chosen[position] = order[j]
                j += 1
            position += 1
    return chosen, bounds


@jit
def _flow_lengths(runs: Any, flows: Any) -> Any:
    """The sum over each component of the lengths of its flows."""
    total = np.zeros(runs.total, np.float64)
    for k in range(runs.rows.size):
        if runs.ids[k] != 0:
            y = runs.rows[k]
            for x in range(runs.starts[k], runs.stops[k]):
                total[runs.components[k]] += np.hypot(flows[0, y, x], flows[1, y, x])
    return total


@jit
def contacts(runs: Any, flows: Any) -> Any:
    """Components that touch: pairs, pixels along the contact, and the flows' divergence over them.

    A contact is a pixel and its right or lower neighbour in two components; the divergence is the
    difference of the flows' component across it. Components that touch at corners alone are a pair
    of length 0. A pair may come several times.
    """
    rows, starts, stops, ids = runs.rows, runs.starts, runs.stops, runs.ids
    components = runs.components
    most = 5 * rows.size  # one at the left, and above overlaps and corners of a planar graph
    pairs = np.empty((2, most), np.int32)
    length = np.empty(most, np.float64)
    divergence = np.empty(most, np.float64)
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
            pairs[0, count], pairs[1, count] = components[k - 1], components[k]
            length[count] = 1.0
            divergence[count] = flows[1, y, x] - flows[1, y, x - 1]
            count += 1
        i = above
        while rows[i] == y - 1 and starts[i] <= stops[k]:
            if ids[i] != 0 and components[i] != components[k]:
                first, last = max(starts[i], starts[k]), min(stops[i], stops[k])
                total = 0.0
                for x in range(first, last):
                    total += flows[0, y, x] - flows[0, y - 1, x]
                pairs[0, count], pairs[1, count] = components[i], components[k]
                length[count], divergence[count] = last - first, total
                count += 1
            i += 1
    return pairs[:, :count], length[:count], divergence[:count]


@jit
def _merge_cheapest(pairs: Any, cost: Any, areas: Any, root: Any) -> Any:
    """Merge in place, into the smaller root; of equal costs the first pair counts."""
    size = root.size
    lowest = np.full(size, np.inf)
    partner = np.full(size, -1, np.int32)
    for k in range(cost.size):
        a, b = pairs[0, k], pairs[1, k]
        if cost[k] < lowest[a]:
            lowest[a], partner[a] = cost[k], b
        if cost[k] < lowest[b]:
            lowest[b], partner[b] = cost[k], a
    parent = np.arange(size).astype(np.int32)
    for a in range(size):
        b = partner[a]
        if b >= 0 and (partner[b] == a or areas[a] < FRAGMENT):
            i, j = find_root(parent, a), find_root(parent, b)
            parent[max(i, j)] = min(i, j)
    grown = np.empty(size, np.int32)
    count = 0
    for a in range(size):
        k = find_root(parent, a)
        if k != a:
            areas[k] += areas[a]
            areas[a] = 0
            grown[count] = k
            count += 1
    for k in range(size):
        root[k] = parent[root[k]]
    return np.unique(grown[:count])
