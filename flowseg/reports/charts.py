"""Charts: SVG for the HTML pages, PNG for the curves of a training."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from flowseg.io.images import write_image
from flowseg.io.paths import PathLike
from flowseg.io.tables import read_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]

# The variables of page.css in light mode; the pages take the colours of the reader's mode.
_SERIES = ("#2563c9", "#d1570a", "#0e8a5f", "#b0308f", "#8a6d00", "#6b4fd8", "#c22f3d", "#0b7f92")
_SOFT, _LINE = "#5b6473", "#d9dee7"
_VARIABLES = {_SOFT: "soft", _LINE: "line"} | {c: f"c{k}" for k, c in enumerate(_SERIES)}

_STYLE = {
    "svg.hashsalt": "flowseg",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": _SOFT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": _LINE,
    "legend.frameon": False,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "ytick.left": False,
}
_AXES = (0.12, 0.18, 0.86, 0.79)  # left, bottom, width, height of a page's chart in its figure
_PANELS = (  # prefix of the columns, title of the panel
    ("loss", "training loss"),
    ("score", "validation score"),
    ("learning_rate", "learning rate"),
)


class Chart(NamedTuple):
    """A chart of a page; no SVG where there is nothing to show.

    Its series are named in the legend; series k is drawn in the colour k of page.css, modulo 8.
    """

    title: str
    series: tuple[str, ...]
    svg: Markup | None


def distribution_chart(
    title: str, series: Mapping[str, NDArray[np.floating]], unit: str, *, log: bool = False
) -> Chart:
    """A histogram of each series of values, as the share of them in each of up to 40 bins.

    The outermost thousandth of the values goes into the first and the last bin.
    """
    values = {name: np.asarray(numbers, np.float64) for name, numbers in series.items()}
    values = {name: numbers[np.isfinite(numbers)] for name, numbers in values.items()}
    pooled = np.concatenate([np.zeros(0), *values.values()])
    if log:
        pooled = pooled[pooled > 0]
    if not pooled.size:
        return Chart(title, (), None)
    low, high = (float(edge) for edge in np.percentile(pooled, (0.1, 99.9)))
    if not high > low:
        low, high = (low / 2, low * 2) if log else (low, low + 1)
    # few values in many bins are a comb
    bins = int(np.clip(2 * np.sqrt(max(map(len, values.values()))), 8, 40))
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    with _figure(4.2, 2.4) as figure:
        axes = figure.add_axes(_AXES, xlabel=unit, ylabel="% of each")
        for k, numbers in enumerate(values.values()):
            share = 100 * np.histogram(np.clip(numbers, low, high), edges)[0] / max(1, len(numbers))
            axes.stairs(share, edges, color=_colour(k), linewidth=1.3)
        if log:
            _log_axis(axes, low, high)
        axes.set_ylim(bottom=0)
        return Chart(title, tuple(values), _svg(figure))


def line_chart(
    title: str, series: Mapping[str, Points], labels: tuple[str, str], *, log: bool = False
) -> Chart:
    """Points (x, y), in order of x, joined by lines, from 0 up to 1; `labels` of both axes."""
    xs = [x for points in series.values() for x, _ in points]
    if not xs:
        return Chart(title, (), None)
    with _figure(4.2, 2.4) as figure:
        axes = figure.add_axes(_AXES, xlabel=labels[0], ylabel=labels[1], ylim=(0, 1))
        for k, points in enumerate(series.values()):
            axes.plot(*np.transpose(points), ".-", color=_colour(k), linewidth=1.3, clip_on=False)
        if log:
            _log_axis(axes, min(xs), max(xs))
        return Chart(title, tuple(series), _svg(figure))


def write_curves(metrics: PathLike, out: PathLike) -> None:
    """Draw the `metrics.csv` of a run as a PNG of three panels: losses, scores, learning rate."""
    import pandas as pd
    from matplotlib import ticker
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    table = read_table(metrics, ("epoch",)).apply(pd.to_numeric, errors="coerce")
    table = table.set_index("epoch").replace([np.inf, -np.inf], np.nan)
    with _figure(14.4, 4) as figure:
        figure.set(facecolor="white", layout_engine="constrained")
        for k, (prefix, title) in enumerate(_PANELS, start=1):
            axes = figure.add_subplot(1, 3, k, xlabel="epoch", ylabel=title)
            columns = [name for name in table if str(name).startswith(prefix)]
            curves = [curve for name in columns if len(curve := table[name].dropna())]
            for j, curve in enumerate(curves):
                marker = "." if len(curve) <= 40 else ""
                axes.plot(curve, marker=marker, ls="-", color=_colour(j), label=str(curve.name))
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
            if curves:
                axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=min(3, len(curves)))
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        write_image(out, np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of so many inches; it must be drawn within the block, in the same style."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):  # whatever the user's matplotlibrc says
        yield Figure(figsize=(width, height))


def _svg(figure: Figure) -> Markup:
    """The figure as an element of a page, in the page's colours."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])  # they repeat in each figure
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Markup(svg)


def _log_axis(axes: Axes, low: float, high: float) -> None:
    """Make the horizontal axis logarithmic, with round numbers as ticks."""
    from matplotlib import ticker

    axes.set_xscale("log")
    locator: Any = ticker.MaxNLocator(6)
    if high / low > 8:
        locator = ticker.LogLocator(subs=(1, 3) if high / low < 1000 else (1,))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _colour(index: int) -> str:
    return _SERIES[index % len(_SERIES)]
