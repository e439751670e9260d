"""COCO's run lengths are read as pycocotools writes them, and damaged ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowseg.errors import FlowsegError
from flowseg.formats.coco import CocoImage


def mask_of(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    image = CocoImage(
        file_name="a.png",
        shape=shape,
        category="",
        segmentations=(segmentation,),
        file=Path("coco.json"),
    )
    return image.masks().dense(0)


def test_packed_run_lengths_are_those_of_pycocotools(rng: np.random.Generator) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for density in (0, 0.001, 0.1, 0.5, 1):
        mask = rng.random((90, 140)) < density
        runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = {"size": runs["size"], "counts": runs["counts"].decode()}
        np.testing.assert_array_equal(mask_of(text, mask.shape), mask)


@pytest.mark.parametrize(
    "runs",
    [
        {"size": [4, 6], "counts": [12, 11]},
        {"size": [6, 4], "counts": [24]},
        {"counts": [24]},
        7,
        None,
        {"size": [4, 6], "counts": "PPP"},
        {"size": [4, 6], "counts": [-1, 25]},
        {"size": [4, 6], "counts": ["x"]},
        {"size": [4, 6], "counts": [[24]]},
        {"size": [4, 6], "counts": "oooooooooooooooo0"},
        {"size": [4, 6], "counts": "o" * 100_000},
        {"size": [4, 6], "counts": "\u00e9"},
        {"size": [4, 6], "counts": [2**63 - 1, 2**63 - 1, 26]},
    ],
)
def test_bad_run_lengths_are_refused(runs: Any) -> None:
    with pytest.raises(FlowsegError, match=r"coco\.json: .*run lengths"):
        mask_of(runs, (4, 6))
