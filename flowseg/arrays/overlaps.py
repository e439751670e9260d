"""A label image from masks that overlap: who owns the pixels that several claim.

A network that gives one label image cannot draw overlaps, so the label image that stands for
overlapping masks bounds the score any model trained on it can reach. `masks_to_labels` makes
that bound high, measured by ``benchmarks/studies/overlap_ceiling.py``:

- Pixels claimed by the same masks and connected to each other are one region, and go to one cell
  whole: the border that is left is one that somebody drew.
- A cell is worth the number of the competition's thresholds that the largest connected component
  it keeps stays above, as IoU with its full mask.
- Every further component of at least 15 pixels would be read as an object of its own. At a score
  near 1 a false positive costs half of a false negative, thus 5 of 10 thresholds.
- Where worth is equal, the sum of the IoU decides; that alone would put small masks on top.

The search starts with small masks on top and gives one region, or two regions at once of masks that
overlap, to other owners as long as the total worth rises.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.components import connected_components
from flowseg.arrays.jit import jit
from flowseg.arrays.rle import Masks

Labels = NDArray[np.int32]

# the worth of a cell, in thousandths of a threshold passed
_THRESHOLD = 1000
_EXTRA = 5 * _THRESHOLD
_SMALLEST_COMPONENT = 15  # pixels

_PARTNERS = 100  # beyond these, regions are moved one by one: pairs would take seconds


def masks_to_labels(masks: Masks) -> Labels:
    """One label image from masks that may overlap: mask ``i`` becomes id ``i + 1``.

    Each contested region goes to one cell whole, so that as many cells as can be stay above as
    many of the competition's thresholds as can be, each connected.

    Returns
    -------
    labels : (H, W) int32
        A mask that loses every pixel leaves a gap in the ids.

    Examples
    --------
    >>> masks_to_labels(Masks.from_strings(["1 6", "5 3"], (1, 8)))
    array([[1, 1, 1, 1, 2, 2, 2, 0]], dtype=int32)
    """
    if masks.areas().sum() == 0:
        return np.zeros(masks.shape, dtype=np.int32)
    claims, parents, members = _claims(
        masks.shape[0] * masks.shape[1], masks.starts, masks.lengths, masks.offsets
    )
    if len(parents) == 1 + len(np.unique(members[1:])):  # every claim is of one mask: no overlap
        return masks.paint()
    nodes = connected_components(claims.reshape(masks.shape), True)
    flat = nodes.reshape(-1)
    sizes = np.bincount(flat)
    claim_of = np.zeros(len(sizes), dtype=np.int64)
    claim_of[flat] = claims
    owners_of, owners_from = _members(claim_of, parents, members)
    node_of = np.repeat(np.arange(len(sizes)), np.diff(owners_from))
    order = np.argsort(owners_of, kind="stable")
    nodes_of = node_of[order]
    nodes_from = np.searchsorted(owners_of[order], np.arange(len(masks) + 1))
    beside, beside_from = _neighbours(nodes, len(sizes))
    owner = _assign(
        masks.areas(),
        sizes,
        (owners_of, owners_from),
        (nodes_of, nodes_from),
        (beside, beside_from),
    )
    labels: Labels = (owner + 1).astype(np.int32)[nodes]
    return labels


def _neighbours(
    nodes: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Nodes that touch each node, over edges and corners, and where each node's list begins."""
    pairs = []
    for a, b in (
        (nodes[:, 1:], nodes[:, :-1]),
        (nodes[1:], nodes[:-1]),
        (nodes[1:, 1:], nodes[:-1, :-1]),
        (nodes[1:, :-1], nodes[:-1, 1:]),
    ):
        touch = (a != b) & (a != 0) & (b != 0)
        one, two = a[touch].astype(np.int64), b[touch].astype(np.int64)
        pairs += [one * count + two, two * count + one]
    codes = np.unique(np.concatenate(pairs))
    return codes % count, np.searchsorted(codes // count, np.arange(count + 1))


@jit
def _claims(size: int, starts: Any, lengths: Any, offsets: Any) -> Any:
    """Which masks claim each pixel, as a number for each set of masks.

    Set ``k`` is set ``parents[k]`` and the mask ``members[k]``; set 0 is empty.
    """
    claims = np.zeros(size, np.int32)
    parents: Any = [np.int64(0)]
    members = [np.int64(-1)]
    for mask in range(len(offsets) - 1):
        # the sets this mask has joined, and what became of them
        grown: Any = {np.int64(-1): np.int64(-1)}
        for run in range(offsets[mask], offsets[mask + 1]):
            for pixel in range(starts[run], starts[run] + lengths[run]):
                before = np.int64(claims[pixel])
                if before not in grown:
                    grown[before] = len(parents)
                    parents.append(before)
                    members.append(np.int64(mask))
                claims[pixel] = grown[before]
    return claims, np.array(parents), np.array(members)


@jit
def _members(claim_of: Any, parents: Any, members: Any) -> Any:
    """Masks that claim each node, and where each node's list begins."""
    begins = np.zeros(len(claim_of) + 1, np.int64)
    found = [np.int64(0) for _ in range(0)]
    for node in range(len(claim_of)):
        claim = claim_of[node]
        while claim != 0:
            found.append(members[claim])
            claim = parents[claim]
        begins[node + 1] = len(found)
    return np.array(found, np.int64), begins


@jit
def _worth(mask: Any, owner: Any, table: Any) -> Any:
    """What a cell is worth with the nodes it owns."""
    areas, sizes, _, (nodes, nodes_from), (beside, beside_from), (seen, queue) = table
    largest = 0
    components = 0
    for k in range(nodes_from[mask], nodes_from[mask + 1]):
        if owner[nodes[k]] != mask or seen[nodes[k]]:
            continue
        seen[nodes[k]] = True
        queue[0] = nodes[k]
        head, tail, size = 0, 1, 0
        while head < tail:
            node = queue[head]
            head += 1
            size += sizes[node]
            for j in range(beside_from[node], beside_from[node + 1]):
                if owner[beside[j]] == mask and not seen[beside[j]]:
                    seen[beside[j]] = True
                    queue[tail] = beside[j]
                    tail += 1
        components += size >= _SMALLEST_COMPONENT
        largest = max(largest, size)
    for k in range(nodes_from[mask], nodes_from[mask + 1]):
        seen[nodes[k]] = False
    if largest == 0:
        return 0
    # the whole percents that the IoU is greater than: 50 passes one threshold, 95 all ten
    percent = (100 * largest - 1) // areas[mask]
    passed = max(0, (percent - 45) // 5)
    extra = max(0, components - 1)
    return _THRESHOLD * passed - _EXTRA * extra + (_THRESHOLD - 1) * largest // areas[mask]


@jit
def _gain(changes: Any, owner: Any, worth: Any, table: Any) -> Any:
    """How much the total worth rises when each (node, new owner) of `changes` is made."""
    touched = np.empty(2 * len(changes), np.int64)
    before = np.empty(len(changes), np.int64)
    count = 0
    for k in range(len(changes)):
        before[k] = owner[changes[k, 0]]
        for mask in (before[k], changes[k, 1]):
            if not (touched[:count] == mask).any():
                touched[count] = mask
                count += 1
    for k in range(len(changes)):
        owner[changes[k, 0]] = changes[k, 1]
    gain = 0
    for mask in touched[:count]:
        gain += _worth(mask, owner, table) - worth[mask]
    for k in range(len(changes)):
        owner[changes[k, 0]] = before[k]
    return gain


@jit
def _best_change(node: int, owner: Any, worth: Any, table: Any) -> Any:
    """The best that giving `node` away can do, alone or with a second node."""
    _, _, (masks, masks_from), (nodes, nodes_from), _, _ = table
    partners = 0
    for a in range(masks_from[node], masks_from[node + 1]):
        partners += nodes_from[masks[a] + 1] - nodes_from[masks[a]]
    crowded = partners > _PARTNERS
    best = 0
    changes = np.zeros((0, 2), np.int64)
    one = np.empty((1, 2), np.int64)
    two = np.empty((2, 2), np.int64)
    for a in range(masks_from[node], masks_from[node + 1]):
        if masks[a] == owner[node]:
            continue
        one[0, 0], one[0, 1] = node, masks[a]
        two[0] = one[0]
        gain = _gain(one, owner, worth, table)
        if gain > best:
            best, changes = gain, one.copy()
        if crowded:
            continue
        for b in range(masks_from[node], masks_from[node + 1]):
            for k in range(nodes_from[masks[b]], nodes_from[masks[b] + 1]):
                other = nodes[k]
                if other == node:
                    continue
                for c in range(masks_from[other], masks_from[other + 1]):
                    if masks[c] != owner[other]:
                        two[1, 0], two[1, 1] = other, masks[c]
                        gain = _gain(two, owner, worth, table)
                        if gain > best:
                            best, changes = gain, two.copy()
    return changes


@jit
def _assign(areas: Any, sizes: Any, claims: Any, mine: Any, beside: Any) -> Any:
    """The mask that owns each node; -1 for background."""
    masks, masks_from = claims
    owner = np.full(len(sizes), -1, np.int64)
    for node in range(len(sizes)):
        for k in range(masks_from[node], masks_from[node + 1]):
            if owner[node] < 0 or areas[masks[k]] < areas[owner[node]]:
                owner[node] = masks[k]
    work = (np.zeros(len(sizes), np.bool_), np.empty(len(sizes), np.int64))
    table = (areas, sizes, claims, mine, beside, work)
    worth = np.zeros(len(areas), np.int64)
    for mask in range(len(areas)):
        worth[mask] = _worth(mask, owner, table)
    rising = True
    while rising:
        rising = False
        for node in range(len(sizes)):
            if masks_from[node + 1] - masks_from[node] < 2:
                continue
            changes = _best_change(node, owner, worth, table)
            for k in range(len(changes)):
                losing = owner[changes[k, 0]]
                owner[changes[k, 0]] = changes[k, 1]
                worth[losing] = _worth(losing, owner, table)
                worth[changes[k, 1]] = _worth(changes[k, 1], owner, table)
                rising = True
    return owner
