"""Dataset statistics: areas, borders, overlaps and quality flags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowseg.arrays.rle import Masks
from flowseg.data.record import Record
from flowseg.io.images import write_image
from flowseg.reports.dataset_stats import dataset_stats


def make_record(path: Path, masks: Masks) -> Record:
    return Record(
        image_id="a",
        image_path=path,
        shape=masks.shape,
        cell_type="cell",
        group="a",
        annotation=masks,
    )


def test_the_statistics_of_an_image(tmp_path: Path) -> None:
    masks = np.zeros((5, 20, 30), bool)
    masks[0, :6, 5:15] = True  # at the border, and overlapping the next
    masks[1, 4:12, 5:15] = True
    masks[2, 15:18, 20:24] = True
    masks[2, 16, 21] = False  # a hole
    masks[3, 15:18, 2:4] = masks[3, 15:18, 6:10] = True  # two components
    masks[4, 10, 20:22] = True  # tiny
    image = np.arange(600, dtype=np.uint16).reshape(20, 30)
    write_image(tmp_path / "a.png", image)
    record = make_record(tmp_path / "a.png", Masks.from_dense(masks))
    (stats,) = dataset_stats([record])
    assert stats.areas.tolist() == [60, 80, 11, 18, 2]
    assert stats.at_border.tolist() == [True, False, False, False, False]
    claimed = masks.any(axis=0)
    assert stats.covered == pytest.approx(claimed.mean())
    assert stats.overlap == pytest.approx((masks.sum(axis=0) > 1).sum() / claimed.sum())
    assert stats.mean == pytest.approx(image.mean())
    assert stats.std == pytest.approx(image.std())
    found = {name: np.flatnonzero(worst).tolist() for name, worst in stats.severity.items()}
    assert found == {"straight": [], "holes": [2], "components": [3], "duplicate": [], "tiny": [4]}
    assert stats.flagged == 3


@pytest.mark.parametrize("edge", [np.s_[0, 3:5], np.s_[-1, 3:5], np.s_[3:5, 0], np.s_[3:5, -1]])
def test_cells_at_each_border(tmp_path: Path, edge: tuple[object, object]) -> None:
    labels = np.zeros((9, 11), np.int32)
    labels[edge] = 1
    labels[4:6, 5:7] = 2
    write_image(tmp_path / "a.png", labels.astype(np.uint8))
    record = make_record(tmp_path / "a.png", Masks.from_labels(labels))
    assert dataset_stats([record])[0].at_border.tolist() == [True, False]
