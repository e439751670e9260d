"""Defects of annotations: each is found, and fixed or dropped."""

from __future__ import annotations

import numpy as np
import pytest

from flowseg.arrays.rle import Masks
from flowseg.data.mask_repair import STRAIGHT, find_defects, repair
from flowseg.data.sartorius import read_annotations


def rectangle(top, left, height, width, shape=(60, 100)):
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def slanted(top, left, height, width):
    """A parallelogram: no horizontal edge of it is longer than its width."""
    mask = np.zeros((60, 100), dtype=bool)
    for k in range(height):
        mask[top + k, left + k : left + k + width] = True
    return mask


def test_each_kind_of_defect():
    whole = slanted(5, 5, 10, 12)
    ring = whole.copy()
    ring[9:11, 12:15] = False
    two = whole | slanted(30, 50, 4, 8)
    straight = rectangle(20, 10, 5, STRAIGHT)
    masks = Masks.from_dense([whole, ring, two, straight, whole, rectangle(0, 0, 3, 3)])
    found = find_defects(masks)
    assert found.holes.tolist() == [0, 6, 0, 0, 0, 0]
    assert found.components.tolist() == [1, 1, 2, 1, 1, 1]
    assert found.straight.tolist()[:5] == [12, 12, 12, STRAIGHT, 12]
    assert found.duplicate_of.tolist() == [-1, -1, -1, -1, 0, -1]
    assert found.small.tolist() == [False] * 5 + [True]
    assert found.any().tolist() == [False, True, True, True, True, True]


@pytest.mark.parametrize(("top", "edge"), [(0, 1), (1, 50), (57, 1), (56, 50)])
def test_an_edge_on_the_border_of_the_image_is_no_defect(top, edge):
    mask = rectangle(top, 10, 3, 50)
    # of the side that lies well inside the image every second pixel stands out
    for k in range(50):
        mask[{0: 3, 1: 4, 57: 56, 56: 55}[top], 10 + k] = k % 2
    assert find_defects(Masks.from_dense([mask])).straight[0] == edge


def test_repair_fixes_what_can_be_fixed():
    whole = slanted(5, 5, 10, 12)
    ring = whole.copy()
    ring[9:11, 12:15] = False
    two = whole | slanted(30, 50, 4, 8)
    straight = rectangle(20, 10, 5, 60)
    masks = Masks.from_dense([ring, two, straight, straight, rectangle(0, 0, 3, 3)])
    fixed = repair(masks, "fix")
    for index, expected in enumerate([whole, whole, straight]):
        np.testing.assert_array_equal(fixed.dense(index), expected)
    assert len(fixed) == 3
    assert len(repair(masks, "drop")) == 0
    assert repair(masks, "none") is masks


def test_no_masks_and_empty_masks():
    assert len(repair(Masks.from_dense([], (3, 3)))) == 0
    empty = Masks.from_strings(["", ""], (3, 3))
    assert find_defects(empty).any().all()
    assert find_defects(empty).components.tolist() == [0, 0]
    assert len(repair(empty)) == 0


@pytest.mark.slow
def test_after_repair_the_real_masks_have_no_hole_and_one_piece(real_data):
    images = read_annotations(real_data / "train.csv", ("astro",))
    holes = 0
    for image in images.values():
        holes += int((find_defects(image.masks).holes > 0).sum())
        after = find_defects(repair(image.masks))
        assert not after.holes.any()
        assert (after.components == 1).all()
        assert (after.duplicate_of < 0).all()
    assert holes > 50, "many astro masks are outlines in part"
