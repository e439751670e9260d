"""Scenes of any appearance, and what annotators would draw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from flowseg.synthetic.appearance import APPEARANCES, Appearance, CellForm, random_appearance
from flowseg.synthetic.render import Scene
from flowseg.synthetic.shapes import shape_cell

SHAPE = (160, 200)


@pytest.mark.parametrize("diameter", [14.0, 40.0])
def test_a_cell_has_the_area_of_its_diameter(diameter: float) -> None:
    rng = np.random.default_rng(1)
    forms = [form for seed in range(20) for _, form in appearance_of(seed).forms]
    ratios = []
    for form in forms:
        cell = shape_cell(form, diameter, rng.uniform(0, 6), rng)
        ratios.append(cell.mask.sum() / (np.pi / 4 * diameter**2))
        assert ndimage.label(cell.mask, np.ones((3, 3)))[1] == 1
    assert np.median(ratios) == pytest.approx(1, abs=0.05)


def appearance_of(seed: int) -> Appearance:
    return random_appearance(np.random.default_rng(seed))


def test_scenes_of_any_appearance() -> None:
    covered, counts, spreads = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scene = Scene(SHAPE, random_appearance(rng), rng)
        image, labels = scene.image(), scene.labels()
        assert image.shape == labels.shape == SHAPE
        assert (image.dtype, labels.dtype) == (np.uint8, np.int32)
        covered.append((labels > 0).mean())
        counts.append(len(np.unique(labels)) - 1)
        spreads.append(image.std())
    # From a few cells to a confluent sheet, from faint to strong.
    assert min(covered) < 0.05
    assert max(covered) > 0.7
    assert min(counts) <= 2
    assert max(counts) > 60
    assert min(spreads) < 4
    assert max(spreads) > 25


def test_same_state_same_scene() -> None:
    scenes = []
    for _ in range(2):
        rng = np.random.default_rng(11)
        scenes.append(Scene(SHAPE, random_appearance(rng), rng))
    np.testing.assert_array_equal(scenes[0].labels(), scenes[1].labels())
    np.testing.assert_array_equal(scenes[0].image(), scenes[1].image())


def test_masks_and_labels_are_the_same_cells() -> None:
    rng = np.random.default_rng(5)
    scene = Scene(SHAPE, APPEARANCES["shsy5y"], rng)
    masks, labels = scene.masks(), scene.labels()
    assert labels.max() == len(masks)
    covered = np.sum([masks.dense(k) for k in range(len(masks))], axis=0)
    np.testing.assert_array_equal(covered > 0, labels > 0)


def test_annotators_differ() -> None:
    star = CellForm(processes=(3, 4), process_length=(1.0, 2.0), process_width=(0.2, 0.3))
    plain = replace(APPEARANCES["astro"], forms=((1.0, star),), crowding=0.0, coverage=0.05)

    def area(**changes: object) -> int:
        appearance = replace(plain, **changes)  # type: ignore[arg-type]
        return int((Scene(SHAPE, appearance, np.random.default_rng(3)).labels() > 0).sum())

    exact = area()
    assert area(outline=1.2) > 1.1 * exact
    assert area(outline=-1.2) < 0.9 * exact
    assert area(cut_processes=0.5) < 0.97 * exact
    assert area(smooth=True) == pytest.approx(exact, rel=0.1)


def test_a_sheet_is_fitted_together() -> None:
    loose = replace(APPEARANCES["cort"], coverage=1.2, overlap=0.05, crowding=0.0)
    shares = [
        (Scene(SHAPE, replace(loose, fitted=fitted), np.random.default_rng(1)).labels() > 0).mean()
        for fitted in (False, True)
    ]
    assert shares[1] > shares[0] + 0.05
