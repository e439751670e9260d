"""The picture of a training, drawn from its metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.io.images import read_image
from flowseg.reports.curves import draw_curves, write_curves


def inked(picture: np.ndarray) -> list[int]:
    """Coloured pixels of each of the three panels."""
    coloured = np.ptp(picture.astype(int), axis=2) > 60
    return [int(part.sum()) for part in np.array_split(coloured, 3, axis=1)]


def test_each_column_goes_to_its_panel(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text(
        "epoch,learning_rate,seconds,loss,score,score_astro\n"
        "1,0.002,3.5,0.9,,\n2,0.001,3.5,0.5,0.25,0.31\n3,0.0,3.5,0.4,0.3,0.4\n"
    )
    write_curves(metrics, tmp_path / "curves.png")
    picture = read_image(tmp_path / "curves.png")
    assert picture.shape == (320, 1440, 3)
    assert all(count > 200 for count in inked(picture))
    before = (tmp_path / "curves.png").read_bytes()
    write_curves(metrics, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() == before


def test_a_falling_loss_falls() -> None:
    picture = draw_curves({"loss": [(1.0, 8.0), (9.0, 1.0)]})[:230, :480].astype(int)
    rows, columns = np.nonzero(np.ptp(picture, axis=2) > 60)
    assert rows[columns.argmin()] < rows[columns.argmax()]


@pytest.mark.parametrize("points", [[], [(1.0, 0.5)], [(1.0, 0.0), (2.0, 0.0)]])
def test_little_to_draw(points: list[tuple[float, float]]) -> None:
    picture = draw_curves({"loss": points} if points else {})
    assert picture.shape == (320, 1440, 3)
    assert inked(picture)[1:] == [0, 0]
    assert (inked(picture)[0] > 0) == bool(points)


def test_metrics_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FlowsegError, match="has no column 'epoch'"):
        write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
