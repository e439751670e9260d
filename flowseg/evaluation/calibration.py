"""Thresholds per cell type, tuned on the out-of-fold competition score.

Of hundreds of settings the best on some images is so partly by luck. Two guards stand against such
overfitting. The objective is the gain over the default less its standard error over images, so that
a setting must win on most images and not on one, averaged with the neighbours on the grid. And a
type adopts it only if choosing so gains on groups of images that were left out. The reported score
is nested in the same way: each group is scored with the settings that all other groups choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve1d
from tqdm import tqdm

from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.evaluation.threshold_grid import Sample, ThresholdGrid, score_grid

Floats = NDArray[np.float64]
Names = NDArray[np.str_]
Index = tuple[int, int, int]
Choice = Callable[[Floats, Names, Index], Index]

_CELLPROB = (1.0, 0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5)
_FLOW = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4)
_SIZE = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4)  # of a disc of the type's diameter


class Scores(NamedTuple):
    """Competition scores of one image.

    `default` is with the default settings of its cell type, `calibrated` with those that the other
    groups of its cell type choose, which may be the default.
    """

    default: float
    calibrated: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How one cell type was tuned; scores are means over its images."""

    images: int
    groups: int
    default: CellTypeSettings
    tuned: CellTypeSettings
    """Those chosen; the default where choosing did not gain on groups left out."""
    default_score: float
    tuned_score: float
    """Biased upwards, since the same images chose the settings."""
    nested_score: float | None
    """Each group with the settings that the others choose: the unbiased score, which may be lower
    than `default_score`. None with one group."""
    gain_interval: tuple[float, float] | None
    """95% bootstrap interval, over images, of ``nested_score - default_score``."""

    @property
    def adopted(self) -> bool:
        """Whether the type takes other settings than the default."""
        return self.tuned != self.default


@dataclass(frozen=True)
class Calibration:
    """Calibrated settings of each cell type, and how they were found."""

    cell_types: dict[str, CellTypeSettings]
    """Of all cell types; the default where there are no images or no gain on groups left out."""
    tunings: dict[str, Tuning]
    """By cell type, for those with images."""
    scores: dict[str, Scores]
    """By image id, sorted."""

    def to_mapping(self) -> dict[str, Any]:
        """The tunings as plain values for a card: numbers, lists and dictionaries."""
        return {
            name: asdict(tuning)
            | {"adopted": tuning.adopted}
            | {"gain_interval": tuning.gain_interval and list(tuning.gain_interval)}
            for name, tuning in self.tunings.items()
        }


def calibrate(
    samples: Iterable[Sample],
    cell_types: Mapping[str, CellTypeSettings],
    seed: int = 0,
    grids: Mapping[str, ThresholdGrid] | None = None,
) -> Calibration:
    """Tune cellprob threshold, flow threshold and minimum size of each cell type.

    Parameters
    ----------
    samples : iterable of Sample
        In any order, which does not change the result; read once, one at a time, so that a
        generator that loads each from its file needs the memory of one image. Each flow field must
        come from a network that has not seen the image.
    cell_types : mapping of CellTypeSettings
        By cell type, the default settings, with known diameters.
    seed : int
        Of the bootstrap.
    grids : mapping of ThresholdGrid, optional
        Settings to try for a cell type, the default among them; `default_grid` if not given.

    Raises
    ------
    FlowsegError
        If a sample's cell type is not in `cell_types`, a diameter is unknown, an image comes
        twice, or a flow field is invalid.
    """
    grids = {name: default_grid(cell) for name, cell in cell_types.items()} | dict(grids or {})
    by_type: dict[str, dict[str, tuple[str, Floats]]] = {name: {} for name in cell_types}
    for sample in tqdm(samples, desc="calibration", unit="image", leave=False):
        if sample.cell_type not in by_type:
            raise FlowsegError(
                f"the image {sample.image_id!r} is of the unknown cell type {sample.cell_type!r}",
                remedy=f"give settings for it beside those of {', '.join(cell_types) or 'none'}",
            )
        if any(sample.image_id in images for images in by_type.values()):
            raise FlowsegError(f"the image {sample.image_id!r} comes twice")
        scores_of_image = score_grid(sample, grids[sample.cell_type])
        by_type[sample.cell_type][sample.image_id] = sample.group, scores_of_image
    rng = np.random.default_rng(seed)
    tuned, tunings = dict(cell_types), {}
    table: dict[str, Scores] = {}
    for name, images in by_type.items():
        if images:
            ids = sorted(images)
            groups, scores = zip(*(images[image_id] for image_id in ids), strict=True)
            tuning, pairs = _tune(cell_types[name], grids[name], np.stack(scores), groups, rng)
            tuned[name] = tuning.tuned
            tunings[name] = tuning
            table.update(zip(ids, pairs, strict=True))
    return Calibration(tuned, tunings, {image_id: table[image_id] for image_id in sorted(table)})


def default_grid(cell: CellTypeSettings) -> ThresholdGrid:
    """The default grid of a cell type of known diameter, its own settings among them.

    Minimum sizes are shares, up to 0.4, of a disc of the type's diameter.

    Examples
    --------
    >>> default_grid(CellTypeSettings(diameter=17.0)).min_sizes
    (0, 7, 14, 15, 23, 34, 45, 68, 91)
    """
    if cell.diameter is None:
        raise FlowsegError("a cell type of unknown diameter cannot be tuned", remedy="give one")
    disc = math.pi / 4 * cell.diameter**2
    return ThresholdGrid(
        tuple(sorted({*_CELLPROB, cell.cellprob_threshold})),
        tuple(sorted({*_FLOW, 0.0, cell.flow_threshold}, key=lambda value: value or math.inf)),
        tuple(sorted({round(share * disc) for share in _SIZE} | {cell.min_size})),
    )


def bootstrap_interval(scores: ArrayLike, rng: np.random.Generator) -> tuple[float, float]:
    """95% interval of the mean of (N,) scores or gains: percentile bootstrap over N images.

    Examples
    --------
    >>> low, high = bootstrap_interval([0.1, 0.2, 0.3, 0.4], np.random.default_rng(0))
    >>> 0.1 < low < 0.25 < high < 0.4
    True
    """
    values = np.asarray(scores, dtype=np.float64)
    drawn = rng.multinomial(values.size, np.full(values.size, 1 / values.size), size=4000)
    tail = (1 - 0.95) / 2
    low, high = np.quantile(drawn @ values / values.size, [tail, 1 - tail])
    return float(low), float(high)


def _tune(
    cell: CellTypeSettings,
    grid: ThresholdGrid,
    scores: Floats,
    groups: Sequence[str],
    rng: np.random.Generator,
) -> tuple[Tuning, list[Scores]]:
    """Choose settings by the scores (N, C, F, S) of images of some groups."""
    names = np.array(groups)
    start = grid.index_of(cell)
    settled = _settle(scores, names, start)
    before = scores[(slice(None), *start)]
    wells = len(set(groups))
    nested = _nested(scores, names, start, _settle)
    tuning = Tuning(
        images=len(scores),
        groups=wells,
        default=cell,
        tuned=grid.settings_at(settled, cell),
        default_score=float(before.mean()),
        tuned_score=float(scores[(slice(None), *settled)].mean()),
        nested_score=float(nested.mean()) if wells > 1 else None,
        gain_interval=bootstrap_interval(nested - before, rng) if wells > 1 else None,
    )
    pairs = zip(before.tolist(), nested.tolist(), strict=True)
    return tuning, [Scores(*pair) for pair in pairs]


def _settle(scores: Floats, names: Names, start: Index) -> Index:
    """The index chosen, where choosing gains on groups left out; else `start`."""
    gains = _nested(scores, names, start, _choose) - scores[(slice(None), *start)]
    return _choose(scores, names, start) if gains.mean() > 0 else start


def _nested(scores: Floats, names: Names, start: Index, choose: Choice) -> Floats:
    """The score of each image at the index that the images of the other groups choose."""
    nested = scores[(slice(None), *start)].copy()
    wells = np.unique(names)
    for well in wells if wells.size > 1 else ():
        held_out = names == well
        chosen = choose(scores[~held_out], names[~held_out], start)
        nested[held_out] = scores[(held_out, *chosen)]
    return nested


def _choose(scores: Floats, _: Names, start: Index) -> Index:
    """The index with the highest lower bound of the gain over `start`, if it is above 0."""
    count = len(scores)
    if count < 2:
        return start
    gains = scores - scores[(slice(None), *start)][:, None, None, None]
    bound = gains.mean(axis=0) - gains.std(axis=0, ddof=1) / math.sqrt(count)
    for axis in range(3):
        bound = convolve1d(bound, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    c, f, s = np.unravel_index(np.argmax(bound), bound.shape)
    return (int(c), int(f), int(s)) if bound[c, f, s] > bound[start] else start
