"""Pictures: colours that tell cells apart, flows as hue, cellprob as heat."""

from __future__ import annotations

import numpy as np

from flowseg.reports.overlay import (
    draw_cellprob,
    draw_flows,
    draw_overlay,
    side_by_side,
)


def test_twelve_cells_in_a_row_have_twelve_colours() -> None:
    labels = np.kron(np.arange(101, 113), np.ones((5, 5), int)).astype(np.int32)
    picture = draw_overlay(np.zeros(labels.shape, np.float32), labels)
    assert len(np.unique(picture[0], axis=0)) == 12


def test_outlines_are_coloured_and_the_rest_is_grey() -> None:
    labels = np.zeros((9, 12), np.int32)
    labels[2:7, 2:7] = 1
    image = np.linspace(-0.2, 1.2, labels.size, dtype=np.float32).reshape(labels.shape)
    picture = draw_overlay(image, labels)
    assert picture.shape == (9, 12, 3)
    coloured = np.ptp(picture, axis=2) > 0
    assert coloured.sum() == 16
    assert picture[0, 0].max() == 0
    assert picture[-1, -1].min() == 255
    assert side_by_side(image, labels, labels * 0).shape == (9, 32, 3)
    assert draw_overlay(image[:0], labels[:0]).shape == (0, 12, 3)


def test_flows_as_hue_and_cellprob_as_heat() -> None:
    flows = np.zeros((2, 1, 4), np.float32)
    flows[:, 0, 0] = 0, 1  # to the right
    flows[:, 0, 1] = 0, -1
    flows[:, 0, 2] = 1, 0
    picture = draw_flows(flows)[0]
    assert picture[0].argmax() == 0
    assert picture[1].argmin() == 0
    assert picture[3].max() == 0
    assert len({tuple(pixel) for pixel in picture.tolist()}) == 4
    assert draw_flows(flows, np.zeros((1, 4), bool)).max() == 0
    heat = draw_cellprob(np.array([[-90, -1, 1, 90]], np.float32))[0].astype(int).sum(axis=1)
    assert heat[0] == 0
    assert heat[-1] == 3 * 255
    assert (np.diff(heat) > 0).all()
