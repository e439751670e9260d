"""What other tools open, written image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.arrays.labels import check_labels
from flowseg.errors import FlowsegError
from flowseg.formats.cell_table import CellTable
from flowseg.formats.coco import CocoDataset
from flowseg.formats.imagej_rois import load_roifile, write_rois
from flowseg.formats.seg_npy import write_seg
from flowseg.io.atomic import atomic_path, ensure_writable_folder
from flowseg.io.images import write_labels

__all__ = ["Exporter", "Formats", "write_imagej_labels"]


@dataclass(frozen=True)
class Formats:
    """What is written where; None is left out.

    Attributes
    ----------
    rois : Path or None
        Folder for ImageJ ROI zips, ``NAME_rois.zip``.
    seg_npy : Path or None
        Folder for Cellpose's ``NAME_seg.npy``.
    label_tiff : Path or None
        Folder for label images with ImageJ's metadata, ``NAME_labels.tif``.
    coco : Path or None
        One COCO JSON file.
    cells : Path or None
        One CSV file, a row a cell.
    """

    rois: Path | None = None
    seg_npy: Path | None = None
    label_tiff: Path | None = None
    coco: Path | None = None
    cells: Path | None = None


class Exporter:
    """Writes the labels of images in every format asked for.

    Parameters
    ----------
    formats : Formats
        Checked at once: folders are made, and a package that is missing is named.
    """

    def __init__(self, formats: Formats) -> None:
        self.formats = formats
        self._coco, self._cells = CocoDataset(), CellTable()
        if formats.rois is not None:
            load_roifile()
        for folder in (formats.rois, formats.seg_npy, formats.label_tiff):
            if folder is not None:
                ensure_writable_folder(folder)
        for file in (formats.coco, formats.cells):
            if file is not None:
                ensure_writable_folder(file.parent)
                if file.is_dir():
                    raise FlowsegError("is a folder", file=file, remedy="name a file")

    def add(
        self,
        file_name: str,
        labels: NDArray[np.integer[Any]],
        *,
        image: NDArray[Any] | None = None,
        cell_type: str = "cell",
        cellprob: NDArray[np.floating[Any]] | None = None,
        scores: Sequence[float] | None = None,
    ) -> None:
        """Write one image's files, and keep its rows for :meth:`close`.

        Parameters
        ----------
        file_name : str
            The image's file name; without suffix it is the image's id.
        labels : (H, W) integer
        image : (H, W) or (H, W, C), optional
            Goes into the `_seg.npy`.
        cell_type : str
        cellprob : (H, W) float, optional
        scores : sequence of float, optional
            Of each cell, in order of their numbers.
        """
        name = Path(file_name).stem
        formats = self.formats
        if formats.rois is not None:
            write_rois(formats.rois / f"{name}_rois.zip", labels)
        if formats.seg_npy is not None:
            path = formats.seg_npy / f"{name}_seg.npy"
            write_seg(path, labels, file_name=file_name, image=image)
        if formats.label_tiff is not None:
            write_imagej_labels(formats.label_tiff / f"{name}_labels.tif", labels)
        if formats.coco is not None:
            self._coco.add(file_name, labels, cell_type, scores)
        if formats.cells is not None:
            self._cells.add(name, labels, cell_type, cellprob, scores)

    def close(self) -> None:
        """Write what holds all images: COCO and the table of cells."""
        if self.formats.coco is not None:
            self._coco.write(self.formats.coco)
        if self.formats.cells is not None:
            self._cells.write(self.formats.cells)


def write_imagej_labels(path: Path, labels: NDArray[np.integer[Any]]) -> None:
    """Write labels as a TIFF that ImageJ shows from 0 to the highest number, and napari opens.

    ImageJ has no whole numbers beyond 16 bits: with higher ids it becomes a plain TIFF of 32.
    """
    import tifffile

    labels = check_labels(labels)
    top = int(labels.max(initial=0))
    if top > np.iinfo(np.uint16).max:
        write_labels(path, labels)
        return
    with atomic_path(path) as part:
        tifffile.imwrite(
            part,
            labels.astype(np.uint16),
            imagej=True,
            compression="zlib",
            metadata={"axes": "YX", "min": 0.0, "max": float(max(top, 1))},
        )
