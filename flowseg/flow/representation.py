"""Labels to flows, and flows to labels: dynamics, merging of basins, thresholds."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flowseg.arrays.jit import jit
from flowseg.arrays.labels import check_labels
from flowseg.flow.diffusion import diffuse
from flowseg.flow.dynamics import follow_flows
from flowseg.flow.merging import merge_basins
from flowseg.flow.residuals import check_flows, flow_residuals
from flowseg.flow.runs import Runs, find_runs, group

Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

_HOLE = 4  # pixels; larger ones are background that the cell winds around


def labels_to_flows(labels: ArrayLike) -> NDArray[np.float32]:
    """Unit vectors that lead every pixel of a cell to the cell's centre, by a path inside the cell.

    Parameters
    ----------
    labels : (H, W) integer
        0 is background, every other id one cell; ids may have gaps.

    Returns
    -------
    flows : (2, H, W) float32
        (dy, dx), of length 1 inside cells and 0 outside. Length 0 inside a cell only where the heat
        has its top: at the centre of a symmetric cell.

    Raises
    ------
    FlowsegError
        Where labels is not a 2-D image of integers or has negative ids.

    Notes
    -----
    The representation of Cellpose (Stringer et al., Nature Methods 18, 2021; rounds and centre as
    in version 3): heat enters at the pixel nearest to the cell's mean, in each of
    2 x (height + width + 4) rounds, and in a round every pixel becomes the mean of its 3 x 3
    neighbourhood, where all outside the cell is 0. Flows are the heat's central differences.

    Beyond it, where the heat underflows, never arrives, or is level, flows point along a shortest
    path inside the cell to where it is. Of a cell in several connected components (8 neighbours),
    the one with the centre has the flows of the reference, and every other one those of a cell of
    its own.

    Examples
    --------
    >>> labels_to_flows(np.array([[0, 2, 2, 2, 0]]))[1]
    array([[ 0.,  1.,  0., -1.,  0.]], dtype=float32)
    """
    image = check_labels(labels)
    flows = np.zeros((2, *image.shape), dtype=np.float32)
    runs = find_runs(image)
    order, offsets = group(runs.components, runs.total)
    table = np.stack((runs.rows, runs.starts, runs.stops, runs.ids))[:, order]
    columns = table[0].astype(np.int64) * image.shape[1] + table[1]
    diffuse(table, offsets, columns, flows.reshape(2, -1))
    return flows


class Instances(NamedTuple):
    """All instances of a flow field, before any is dropped."""

    shape: tuple[int, int]
    """Of the image."""
    runs: Runs
    """Of instances and background."""
    roots: Ints
    """(P,) int32: For each component, the one that stands for its instance, which is its first; for
    a hole, the one that stands for the instance around it."""
    areas: Longs
    """(P,) int64: Pixels of the instance without its holes, at its root; 0 elsewhere."""
    filled: Longs
    """The same with its holes."""
    residuals: NDArray[np.float64]
    """(P,) float64: Flow residual of the instance, at its root; NaN where it was not computed."""

    def keep_mask(self, flow_threshold: float, min_size: int) -> Bools:
        """Which components are roots of instances that pass both thresholds: (P,) bool."""
        keep: Bools = (self.areas > 0) & (self.filled >= min_size)
        if flow_threshold > 0:
            keep &= ~(self.residuals > flow_threshold * self.areas)
        return keep

    def labels(self, keep: Bools) -> Ints:
        """The label image of the instances with these roots; ids in order of the roots."""
        ids = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
        image = np.empty(self.shape, dtype=np.int32)
        _paint(self.runs, ids[self.roots], image)
        return image


def flows_to_labels(
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
        Steps for which a pixel follows the flows at most.

    Returns
    -------
    labels : (H, W) int32
        0 is background; ids 1..N without gaps, in reading order, each one connected component.

    Raises
    ------
    FlowsegError
        Where a shape is wrong, shapes differ, or a value is not finite.

    Notes
    -----
    As in Cellpose (Stringer et al., Nature Methods 18, 2021) pixels follow the flows to sinks, and
    an instance is dropped where the mean squared difference between the flows and those of its own
    mask exceeds `flow_threshold`. Beyond it, pixels do not step across contacts at which the flows
    diverge, basins of one cell are merged (:mod:`flowseg.flow.merging`), and holes of up to 4
    pixels are filled.
    """
    instances = find_instances(
        flows,
        cellprob,
        cellprob_threshold=cellprob_threshold,
        niter=niter,
        residuals=flow_threshold > 0,
    )
    return instances.labels(instances.keep_mask(flow_threshold, min_size))


def find_instances(
    flows: ArrayLike,
    cellprob: ArrayLike,
    *,
    cellprob_threshold: float = 0.0,
    niter: int = 200,
    residuals: bool = True,
) -> Instances:
    """All instances of a flow field; parameters and errors as for `flows_to_labels`.

    `residuals` says whether the flow residuals are computed, which a flow threshold needs.
    """
    field, prob = check_flows(flows, cellprob)
    basins = follow_flows(field, prob, cellprob_threshold, niter)
    runs = find_runs(basins, background=True)
    roots, areas, residual = merge_basins(
        runs, field, residuals, partial(flow_residuals, flows=field)
    )
    around, filled = _holes(runs, roots, areas, basins.shape)
    return Instances(
        shape=(basins.shape[0], basins.shape[1]),
        runs=runs,
        roots=np.where(around < 0, roots, around),
        areas=areas,
        filled=filled,
        residuals=residual,
    )


@jit
def _holes(runs: Any, roots: Any, areas: Any, shape: Any) -> Any:
    """The root of the cell around each hole, -1 for other components; areas with holes.

    A small component of background that only one cell touches is a hole.
    """
    rows, starts, stops, ids = runs.rows, runs.starts, runs.stops, runs.ids
    components = runs.components
    count = roots.size
    around = np.full(count, -1, np.int32)  # the only cell around, -2 where there are more
    sizes = np.zeros(count, np.int64)
    above = 0
    for k in range(components.size):
        p = components[k]
        if ids[k] == 0:
            sizes[p] += stops[k] - starts[k]
            if rows[k] == 0 or rows[k] == shape[0] - 1 or starts[k] == 0 or stops[k] == shape[1]:
                around[p] = -2
        if k > 0 and rows[k - 1] == rows[k]:
            _note_contact(around, roots, ids[k - 1], ids[k], components[k - 1], p)
        while rows[above] < rows[k] - 1 or (
            rows[above] == rows[k] - 1 and stops[above] <= starts[k]
        ):
            above += 1
        i = above
        while rows[i] == rows[k] - 1 and starts[i] < stops[k]:
            _note_contact(around, roots, ids[i], ids[k], components[i], p)
            i += 1
    filled = areas.copy()
    for p in range(count):
        if around[p] < 0 or sizes[p] > _HOLE:
            around[p] = -1
        else:
            filled[around[p]] += sizes[p]
    return around, filled


@jit
def _note_contact(around: Any, roots: Any, id_a: int, id_b: int, a: int, b: int) -> None:
    """Note that two components touch, where one is background and the other is not."""
    if (id_a == 0) == (id_b == 0):
        return
    hole, cell = (a, roots[b]) if id_a == 0 else (b, roots[a])
    if around[hole] == -1:
        around[hole] = cell
    elif around[hole] != cell:
        around[hole] = -2


@jit
def _paint(runs: Any, ids: Any, image: Any) -> None:
    for k in range(runs.rows.size):
        image[runs.rows[k], runs.starts[k] : runs.stops[k]] = ids[runs.components[k]]
