"""One picture of how a training went: losses, scores and the learning rate over the epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.io.images import write_image
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import PathLike
from flowseg.io.tables import read_table

__all__ = ["draw_curves", "write_curves"]

_PANELS = (("loss", "loss"), ("score", "score on the validation images"), ("learning_rate", "rate"))
_WIDTH, _HEIGHT = 960, 640  # pixels of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 130, 40, 90, 190
_INK, _SOFT, _LINE = (48, 35, 29), (115, 100, 91), (231, 222, 217)  # blue, green, red, as OpenCV
_COLOURS = (
    *((201, 99, 37), (10, 87, 209), (95, 138, 14), (143, 48, 176)),
    *((0, 109, 138), (216, 79, 107), (61, 47, 194), (146, 127, 11)),
)

Series = dict[str, list[tuple[float, float]]]


def write_curves(metrics: PathLike, out: PathLike) -> None:
    """Draw the `metrics.csv` of a run as a PNG.

    Raises
    ------
    FlowsegError
        If `metrics` cannot be read or `out` cannot be written.
    """
    columns: Series = {}
    for fields in read_table(metrics, ("epoch",)).to_dict("records"):
        for name, text in fields.items():
            value = _number(text)
            if math.isfinite(value):
                columns.setdefault(str(name), []).append((float(fields["epoch"]), value))
    write_image(out, draw_curves(columns))


def draw_curves(columns: Series) -> NDArray[np.uint8]:
    """Three panels: every column named `loss...`, every `score...`, and `learning_rate`.

    Parameters
    ----------
    columns : dict of list of (float, float)
        Epoch and value by column; an epoch without the value is left out.

    Returns
    -------
    ndarray, (H, W, 3) uint8
        RGB.
    """
    panels = []
    for prefix, title in _PANELS:
        own = {name: points for name, points in columns.items() if name.startswith(prefix)}
        panels.append(_panel(title, own))
    picture = np.hstack(panels)
    cv2 = load_cv2()
    # drawn twice as large: so lines are smooth and the text is, too
    small = picture.shape[1] // 2, picture.shape[0] // 2
    return np.ascontiguousarray(cv2.resize(picture, small, interpolation=cv2.INTER_AREA)[..., ::-1])


@dataclass(frozen=True)
class _Frame:
    """From epoch and value to a place in the panel."""

    epochs: tuple[float, float]
    values: tuple[float, float]

    def place(self, epoch: float, value: float) -> tuple[int, int]:
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        along = (epoch - self.epochs[0]) / (self.epochs[1] - self.epochs[0])
        up = (value - self.values[0]) / (self.values[1] - self.values[0])
        return round(_LEFT + wide * along), round(_TOP + high * (1 - up))


def _panel(title: str, series: Series) -> NDArray[np.uint8]:
    cv2 = load_cv2()
    panel = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
    _write(panel, title, (_LEFT, 52), _INK, 1.1)
    every = [point for points in series.values() for point in points]
    if not every:
        _write(panel, "none", (_LEFT, _TOP + 60), _SOFT)
        return panel
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    top = max(1e-9, *(y for _, y in every))
    frame = _Frame((first, last) if first < last else (first - 1, last + 1), (0.0, 1.05 * top))
    for mark in _ticks(*frame.values):
        y = frame.place(first, mark)[1]
        cv2.line(panel, (_LEFT, y), (_WIDTH - _RIGHT, y), _LINE, 2)
        _write(panel, f"{mark:.3g}", (_LEFT - 16, y + 10), _SOFT, right=True)
    for mark in _ticks(*frame.epochs):
        if mark == int(mark):
            x = frame.place(mark, 0)[0]
            _write(panel, f"{mark:.0f}", (x + 10, _HEIGHT - _BOTTOM + 40), _SOFT, right=True)
    _write(panel, "epoch", (_WIDTH - _RIGHT, _HEIGHT - _BOTTOM + 76), _SOFT, right=True)
    x, y = _LEFT, _HEIGHT - 84
    for index, (name, points) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        places = [frame.place(*point) for point in points]
        cv2.polylines(panel, [np.array(places, np.int32)], False, colour, 4, cv2.LINE_AA)
        for place in places if len(places) <= 40 else places[-1:]:
            cv2.circle(panel, place, 7, colour, -1, cv2.LINE_AA)
        if x > _WIDTH - 240:
            x, y = _LEFT, y + 34
        cv2.circle(panel, (x + 8, y - 9), 9, colour, -1, cv2.LINE_AA)
        x = _write(panel, name, (x + 26, y), _INK) + 28
    return panel


def _write(
    panel: NDArray[np.uint8],
    text: str,
    place: tuple[int, int],
    colour: tuple[int, int, int],
    size: float = 0.75,
    right: bool = False,
) -> int:
    """Write a line of text, ending at `place` with `right`; where it ends."""
    cv2 = load_cv2()
    font: Any = cv2.FONT_HERSHEY_SIMPLEX
    (width, _), _ = cv2.getTextSize(text, font, size, 2)
    left: int = place[0] - width if right else place[0]
    cv2.putText(panel, text, (left, place[1]), font, size, colour, 2, cv2.LINE_AA)
    return left + int(width)


def _ticks(low: float, high: float) -> Sequence[float]:
    """Round values between the two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
