"""The registry of output formats: the same names in `predict`, in `export` and in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowseg.errors import require
from flowseg.io.atomic import ensure_writable_file, ensure_writable_folder
from flowseg.io.paths import PathLike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["WRITERS", "Formats", "SegmentedImage", "Writer"]


@dataclass(frozen=True, kw_only=True)
class SegmentedImage:
    """One image with its cells, as writers take it.

    Attributes
    ----------
    image_id : str
    file_name : str
        Of the image, with its suffix.
    labels : (H, W) integer
    cell_type : str
    image : (H, W) or (H, W, C), optional
        Its pixels.
    cellprob : (H, W) float, optional
        Logits.
    compute_scores : callable
        Gives the confidence of each cell, ids ascending, (N,) float; None where it is not known.
    pictures : mapping of callable
        Draw what only a prediction can show, as uint8 images, by the name of the format.
    """

    image_id: str
    file_name: str
    labels: NDArray[np.integer[Any]]
    cell_type: str = "cell"
    image: NDArray[Any] | None = None
    cellprob: NDArray[np.floating[Any]] | None = None
    compute_scores: Callable[[], NDArray[np.floating[Any]] | None] = lambda: None
    pictures: Mapping[str, Callable[[], NDArray[np.uint8]]] = field(default_factory=dict)


def _nothing(*_: object) -> None:
    """What a format that is written otherwise does."""


@dataclass(frozen=True)
class Writer:
    """How one format is written.

    Attributes
    ----------
    help : str
        What it writes, for the command line.
    option : str
        Its option of the command line; blank where another option stands for it.
    metavar : {"DIR", "FILE", "PATH"}
        What the option takes. A PATH that ends in .csv is one file, else a folder.
    suffix : str
        What the name of an image's file ends in, after the image id.
    write : callable
        Writes the file of one image.
    collect, write_all : callable
        From an image to its part, of values that JSON can keep; and from the parts of all images
        to one file.
    check : callable
        Raises a FlowsegError where a package is missing.
    predict_only : bool
        Whether it needs a prediction, so that `export` cannot write it.
    """

    help: str
    _: KW_ONLY
    option: str = ""
    metavar: str = "DIR"
    suffix: str = ""
    write: Callable[[Path, SegmentedImage], None] = _nothing
    collect: Callable[[SegmentedImage], Any] = _nothing
    write_all: Callable[[Path, Iterable[Any]], None] = _nothing
    check: Callable[[], object] = _nothing
    predict_only: bool = False


# Imports wait until something is written: `--help` reads the registry, too.


def _write_labels(path: Path, item: SegmentedImage) -> None:
    from flowseg.io.images import write_labels

    write_labels(path, item.labels)


def _write_zarr(path: Path, item: SegmentedImage) -> None:
    from flowseg.io.label_rows import write_labels_by_rows

    height, width = item.labels.shape
    write_labels_by_rows(path, iter([item.labels.astype("int32")]), (height, width))


def _check_zarr() -> None:
    require("zarr", "zarr")


def _write_imagej_labels(path: Path, item: SegmentedImage) -> None:
    from flowseg.formats.imagej_rois import write_imagej_labels

    write_imagej_labels(path, item.labels)


def _write_rois(path: Path, item: SegmentedImage) -> None:
    from flowseg.formats.imagej_rois import write_rois

    write_rois(path, item.labels)


def _check_rois() -> None:
    require("roifile", "rois")


def _write_seg(path: Path, item: SegmentedImage) -> None:
    from flowseg.formats.seg_npy import write_seg

    write_seg(path, item.labels, file_name=item.file_name, image=item.image)


def _collect_coco(item: SegmentedImage) -> dict[str, Any]:
    from flowseg.formats.coco import coco_image

    return coco_image(
        item.file_name, item.labels, cell_type=item.cell_type, scores=item.compute_scores()
    )


def _write_coco(path: Path, images: Iterable[Any]) -> None:
    from flowseg.formats.coco import write_coco

    write_coco(path, images)


def _collect_cells(item: SegmentedImage) -> list[list[Any]]:
    from flowseg.formats.cell_table import cell_rows

    return cell_rows(
        item.image_id,
        item.labels,
        cell_type=item.cell_type,
        cellprob=item.cellprob,
        scores=item.compute_scores(),
    )


def _write_all_cells(path: Path, images: Iterable[Any]) -> None:
    from flowseg.formats.cell_table import write_cells

    write_cells(path, images)


def _write_cells(path: Path, item: SegmentedImage) -> None:
    _write_all_cells(path, [_collect_cells(item)])


def _collect_submission(item: SegmentedImage) -> tuple[str, list[str]]:
    from flowseg.formats.submission import mask_texts

    return item.image_id, mask_texts(item.image_id, item.labels)


def _write_submission(path: Path, images: Iterable[Any]) -> None:
    from flowseg.formats.submission import write_submission

    write_submission(path, images)


def _picture(name: str, option: str, text: str) -> Writer:
    def write(path: Path, item: SegmentedImage) -> None:
        from flowseg.io.images import write_image

        write_image(path, item.pictures[name]())

    return Writer(text, option=option, suffix=".png", write=write, predict_only=True)


WRITERS: Mapping[str, Writer] = {
    "submission": Writer(
        "the competition's CSV",
        metavar="FILE",
        collect=_collect_submission,
        write_all=_write_submission,
    ),
    "labels": Writer(
        "label images, NAME.tif", option="--save-labels", suffix=".tif", write=_write_labels
    ),
    "label_tiff": Writer(
        "label images with ImageJ's metadata, NAME_labels.tif",
        option="--label-tiff",
        suffix="_labels.tif",
        write=_write_imagej_labels,
    ),
    "rois": Writer(
        "ImageJ ROIs, NAME_rois.zip (needs roifile)",
        option="--rois",
        suffix="_rois.zip",
        write=_write_rois,
        check=_check_rois,
    ),
    "seg_npy": Writer(
        "Cellpose's NAME_seg.npy", option="--seg-npy", suffix="_seg.npy", write=_write_seg
    ),
    "coco": Writer(
        "COCO JSON of all images",
        option="--coco",
        metavar="FILE",
        collect=_collect_coco,
        write_all=_write_coco,
    ),
    "cells": Writer(
        "cell tables: area, position, shape, cellprob and score of each cell; one table of all "
        "images where PATH ends in .csv, else NAME_cells.csv in a folder",
        option="--cells",
        metavar="PATH",
        suffix="_cells.csv",
        write=_write_cells,
        collect=_collect_cells,
        write_all=_write_all_cells,
    ),
    "overlays": _picture("overlays", "--overlays", "the image with the cells' outlines, NAME.png"),
    "fields": _picture("fields", "--fields", "flows and cellprob as pictures, NAME.png"),
    "disagreement": _picture(
        "disagreement",
        "--disagreement",
        "where models and augmented views disagree, as pictures, NAME.png",
    ),
}
"""Every format that can be written, by its name in `Formats`."""

_ZARR = Writer("", suffix=".zarr", write=_write_zarr, check=_check_zarr)


@dataclass(frozen=True, kw_only=True)
class Formats:
    """What to write, and to where; None is not written.

    Attributes
    ----------
    submission : path, optional
        The competition's CSV.
    labels : path, optional
        Folder of label images, ``NAME.tif`` or ``NAME.zarr``.
    label_tiff : path, optional
        Folder of label images with ImageJ's metadata, ``NAME_labels.tif``.
    rois : path, optional
        Folder of ImageJ ROIs, ``NAME_rois.zip``.
    seg_npy : path, optional
        Folder of Cellpose's ``NAME_seg.npy``.
    coco : path, optional
        One COCO JSON file.
    cells : path, optional
        Cell tables: one file where it ends in .csv, else a folder of ``NAME_cells.csv``.
    overlays, fields, disagreement : path, optional
        Folders of pictures, ``NAME.png``: outlines over the image; flows (direction as hue) beside
        cellprob (as heat); where networks and augmented views disagree. Of predictions only.
    labels_format : {"tiff", "zarr"}
        File format of `labels`.
    """

    submission: PathLike | None = None
    labels: PathLike | None = None
    label_tiff: PathLike | None = None
    rois: PathLike | None = None
    seg_npy: PathLike | None = None
    coco: PathLike | None = None
    cells: PathLike | None = None
    overlays: PathLike | None = None
    fields: PathLike | None = None
    disagreement: PathLike | None = None
    labels_format: Literal["tiff", "zarr"] = "tiff"

    @property
    def paths(self) -> dict[str, Path]:
        """The files and folders to write to, by format."""
        values = {name: getattr(self, name) for name in WRITERS}
        return {name: Path(value) for name, value in values.items() if value is not None}

    def collected(self) -> dict[str, Path]:
        """Those that are one file of all images."""
        return {name: path for name, path in self.paths.items() if _is_one_file(name, path)}

    def files(self, image_id: str) -> dict[str, Path]:
        """The files of one image, by format."""
        return {
            name: path / f"{image_id}{self._writer(name).suffix}"
            for name, path in self.paths.items()
            if not _is_one_file(name, path)
        }

    def check(self) -> None:
        """Refuse what cannot be written, before work starts; folders are made.

        Raises
        ------
        FlowsegError
            If a package is missing, a folder cannot be written to, or a file is a folder.
        """
        for name, path in self.paths.items():
            self._writer(name).check()
            if _is_one_file(name, path):
                ensure_writable_file(path)
            else:
                ensure_writable_folder(path)

    def write(self, item: SegmentedImage) -> dict[str, Any]:
        """Write the files of one image.

        Returns
        -------
        dict
            The image's part of each file of all images, for `write_collected`.
        """
        for name, path in self.files(item.image_id).items():
            self._writer(name).write(path, item)
        return {name: self._writer(name).collect(item) for name in self.collected()}

    def write_collected(self, images: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Write the files that hold all images.

        Parameters
        ----------
        images : callable
            Gives what `write` returned for each image, in the order of the files; called once for
            each file.
        """
        for name, path in self.collected().items():
            self._writer(name).write_all(path, (parts[name] for parts in images()))

    def _writer(self, name: str) -> Writer:
        return _ZARR if name == "labels" and self.labels_format == "zarr" else WRITERS[name]


def _is_one_file(name: str, path: Path) -> bool:
    metavar = WRITERS[name].metavar
    return metavar == "FILE" or (metavar == "PATH" and path.suffix.lower() == ".csv")
