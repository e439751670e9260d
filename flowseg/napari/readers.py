"""Files of cells that napari opens as Labels layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowseg.formats.seg_npy import read_seg
from flowseg.io.paths import SEG_SUFFIX
from flowseg.napari.samples import LayerData


def reader_of(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """The function that reads these files, or None where one is not Cellpose's ``_seg.npy``."""
    return read_cells if all(one.endswith(SEG_SUFFIX) for one in _paths(path)) else None


def read_cells(path: str | list[str]) -> list[LayerData]:
    """A Labels layer for each file."""
    return [
        (read_seg(one), {"name": Path(one).name.removesuffix(SEG_SUFFIX)}, "labels")
        for one in _paths(path)
    ]


def _paths(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else path
