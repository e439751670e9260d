"""Charts: SVG for the pages, PNG for a training's curves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.io.images import read_image
from flowseg.reports.charts import distribution_chart, line_chart, write_curves

HOSTILE = "$a_1</svg><script>alert(1)</script>"


def inked(picture: np.ndarray) -> list[int]:
    """Coloured pixels of each of the three panels."""
    coloured = np.ptp(picture.astype(int), axis=2) > 60
    return [int(part.sum()) for part in np.array_split(coloured, 3, axis=1)]


def test_a_distribution_has_a_line_for_each_series(rng: np.random.Generator) -> None:
    values = {"many": rng.normal(50, 9, 5000), HOSTILE: rng.normal(70, 9, 60)}
    chart = distribution_chart("t", values, "pixels")
    assert chart.series == ("many", HOSTILE)
    assert chart.svg is not None
    assert chart.svg.startswith("<svg")
    for text in ("pixels", "% of each", "var(--c0)", "var(--c1)", "var(--soft)"):
        assert text in chart.svg
    assert "var(--c2)" not in chart.svg
    assert "script" not in chart.svg
    assert "#2563c9" not in chart.svg
    assert distribution_chart("t", values, "pixels") == chart


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[0, 0, 0], [5], [0, 1e9], [3, 4, 5, 6, 20]])
def test_odd_distributions(values: list[float], log: bool) -> None:
    chart = distribution_chart("t", {"a": np.array(values, float)}, "x", log=log)
    assert (chart.svg is None) == (log and not any(values))
    assert not re.search(r"\b(nan|inf)\b", chart.svg or "")


def test_nothing_to_show() -> None:
    for values in ({}, {"a": np.zeros(0)}, {"a": np.array([np.nan])}):
        assert distribution_chart("t", values, "x").svg is None
    assert line_chart("t", {}, ("x", "y")).svg is None


def test_lines_rise_upwards() -> None:
    chart = line_chart("t", {"a": [(1.0, 0.0), (2.0, 1.0)]}, ("x", "y"))
    assert chart.svg is not None
    (path,) = re.findall(r'<path d="M ([^"]+)" style="fill: none; stroke: var\(--c0\)', chart.svg)
    (x0, y0), (x1, y1) = (map(float, point.split()) for point in path.split("L"))
    assert x0 < x1
    assert y0 > y1
    assert line_chart("t", {"a": [(3.0, 0.5)]}, ("x", "y"), log=True).svg is not None


def test_each_column_goes_to_its_panel(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text(
        "epoch,learning_rate,seconds,loss,score,score_$a\n"
        "1,0.002,3.5,0.9,,\n2,0.001,3.5,0.5,0.25,0.31\n3,0.0,3.5,0.4,0.3,0.4\n"
    )
    write_curves(metrics, tmp_path / "curves.png")
    picture = read_image(tmp_path / "curves.png")
    assert picture.shape == (400, 1440, 3)
    assert all(count > 200 for count in inked(picture))
    before = (tmp_path / "curves.png").read_bytes()
    write_curves(metrics, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() == before


def test_a_falling_loss_falls(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,8\n9,1\n")
    write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    picture = read_image(tmp_path / "curves.png")[:320, :480].astype(int)
    rows, columns = np.nonzero(np.ptp(picture, axis=2) > 60)
    assert rows[columns.argmin()] < rows[columns.argmax()]


def test_many_epochs_have_no_markers_and_no_warning(tmp_path: Path) -> None:
    rows = "".join(f"{epoch},{100 / epoch}\n" for epoch in range(1, 62))
    (tmp_path / "metrics.csv").write_text("epoch,loss\n" + rows)
    write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert inked(read_image(tmp_path / "curves.png"))[0] > 200


@pytest.mark.parametrize("rows", ["", "1,0.5\n", "1,0\n2,0\n", "1,\n2,nan\n"])
def test_little_to_draw(tmp_path: Path, rows: str) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss\n" + rows)
    write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    loss, *others = inked(read_image(tmp_path / "curves.png"))
    assert others == [0, 0]
    assert (loss > 0) == any(digit in rows for digit in ("0.5", ",0"))


def test_metrics_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FlowsegError, match="has no column 'epoch'"):
        write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
