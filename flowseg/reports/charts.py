"""Charts as SVG, drawn by hand: distributions and curves, one colour a series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowseg.reports.html import Html, tag

__all__ = ["curves", "distribution", "key"]

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 16, 10, 36
_SERIES = 8  # colours in the page's style

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axis:
    """From a value to a place."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        if self.log and self.high / self.low > 8:
            low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1,) if high - low > 3 else (1, 3)
            marks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
        else:
            rough = (self.high - self.low) / 5
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            marks = [k * step for k in range(first, last + 1)]
        return [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]


def distribution(
    title: str, series: Mapping[str, NDArray[np.floating]], unit: str, *, log: bool = False
) -> Html:
    """How the values of each series spread, as the share of its values in each of up to 40 bins.

    Parameters
    ----------
    title, unit : str
        What is counted, and what the horizontal axis shows.
    series : mapping of (N,) float
        Values by name; the outermost thousandth goes into the first and the last bin.
    log : bool
        Whether the axis is logarithmic.
    """
    kept = {name: np.asarray(values, np.float64) for name, values in series.items()}
    kept = {name: values[np.isfinite(values)] for name, values in kept.items()}
    every = np.concatenate([np.zeros(0), *kept.values()])
    if log:
        every = every[every > 0]
    if not every.size:
        return tag("figure", tag("figcaption", title), tag("p", "nothing to show", class_="note"))
    low, high = (float(edge) for edge in np.percentile(every, (0.1, 99.9)))
    if not high > low:
        low, high = (low / 2, low * 2) if log else (low, low + 1)
    # few values in many bins are a comb
    bins = int(np.clip(2 * np.sqrt(max(map(len, kept.values()))), 8, 40))
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    lines, shares = {}, [0.0]
    for name, values in kept.items():
        counts = np.histogram(np.clip(values, low, high), edges)[0]
        share = 100 * counts / max(1, len(values))
        shares.append(float(share.max()))
        # steps: each bin's share from its left edge to its right
        xs, ys = np.repeat(edges, 2)[1:-1], np.repeat(share, 2)
        lines[name] = [(low, 0.0), *zip(xs.tolist(), ys.tolist(), strict=True), (high, 0.0)]
    axes = _Axis(low, high, log), _Axis(0, max(shares) * 1.05 or 1)
    return _chart(title, lines, axes, unit, "% of each", dots=False)


def curves(
    title: str,
    series: Mapping[str, Points],
    labels: tuple[str, str],
    *,
    log: bool = False,
    high: float = 1.0,
) -> Html:
    """Points joined by lines, from 0 up to `high`.

    Parameters
    ----------
    title : str
    series : mapping of sequence of (float, float)
        Points by name, in order of x.
    labels : (str, str)
        What the horizontal and the vertical axis show.
    log : bool
        Whether the horizontal axis is logarithmic.
    high : float
        End of the vertical axis.
    """
    xs = [x for points in series.values() for x, _ in points]
    if not xs:
        return tag("figure", tag("figcaption", title), tag("p", "nothing to show", class_="note"))
    first, last = min(xs), max(xs)
    if first == last:
        first, last = (first / 2, last * 2) if log and first > 0 else (first - 1, last + 1)
    return _chart(title, series, (_Axis(first, last, log), _Axis(0, high)), *labels, dots=True)


def key(names: Sequence[str], classes: Sequence[str] | None = None) -> Html:
    """Which colour is which."""
    kinds = classes or [_series(index) for index in range(len(names))]
    parts = zip(names, kinds, strict=True)
    return tag("div", *(tag("span", tag("i", class_=k), name) for name, k in parts), class_="key")


def _series(index: int) -> str:
    return f"s{index % _SERIES}"


def _chart(
    title: str,
    series: Mapping[str, Points],
    axes: tuple[_Axis, _Axis],
    x_label: str,
    y_label: str,
    dots: bool,
) -> Html:
    along, up = axes
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + wide * along.share(x), 1), round(_TOP + high * (1 - up.share(y)), 1)

    parts = []
    floor = _TOP + high
    rises, marks = up.ticks(), along.ticks()
    for mark, text in zip(rises, _texts(rises), strict=True):
        _, y = place(along.low, mark)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="axis"))
        parts.append(tag("text", text, x=_LEFT - 5, y=y + 4, text_anchor="end"))
    for mark, text in zip(marks, _texts(marks), strict=True):
        x, _ = place(mark, up.low)
        parts.append(tag("line", x1=x, x2=x, y1=floor, y2=floor + 4, class_="axis"))
        parts.append(tag("text", text, x=x, y=floor + 16, text_anchor="middle"))
    parts.append(tag("text", x_label, x=_LEFT + wide / 2, y=_HEIGHT - 5, text_anchor="middle"))
    parts.append(
        tag(
            "text",
            y_label,
            transform=f"translate(11 {_TOP + high / 2}) rotate(-90)",
            text_anchor="middle",
        )
    )
    for index, (name, points) in enumerate(series.items()):
        places = [place(x, y) for x, y in points]
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        line = tag("path", tag("title", name), d=path, class_=f"line {_series(index)}")
        parts.append(line if places else tag("g"))
        for (x, y), (value, level) in zip(places if dots else [], points, strict=False):
            said = tag("title", f"{name}: {level:.4g} at {value:.4g}")
            parts.append(tag("circle", said, cx=x, cy=y, r=3, class_=_series(index)))
    drawing = tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=title)
    names = key(list(series)) if len(series) > 1 else None
    return tag("figure", tag("figcaption", title), drawing, names)


def _texts(marks: Sequence[float]) -> list[str]:
    """Each mark with as few digits as tell all of them apart."""
    for digits in range(2, 9):
        texts = [f"{mark:.{digits}g}" for mark in marks]
        near = all(
            abs(float(text) - mark) <= 1e-6 * abs(mark)
            for text, mark in zip(texts, marks, strict=True)
        )
        if near and len(set(texts)) == len(marks):
            break
    return [f"{float(text):g}" for text in texts]
