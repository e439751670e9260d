"""The registry of output formats: the same names in `predict`, in `export` and in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flowseg.errors import require
from flowseg.io.atomic import ensure_writable_file, ensure_writable_folder
from flowseg.io.paths import PathLike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowseg.io.physical import PixelSize


@dataclass(frozen=True, kw_only=True)
class SegmentedImage:
    """One image with its cells, as writers take it."""

    image_id: str
    file_name: str
    """Of the image, with its suffix."""
    labels: NDArray[np.integer[Any]]
    cell_type: str = "cell"
    image: NDArray[Any] | None = None
    pixel_size: PixelSize | None = None
    cellprob: NDArray[np.floating[Any]] | None = None
    """Logits."""
    compute_scores: Callable[[], NDArray[np.floating[Any]] | None] = lambda: None
    """Confidence of each cell, ids ascending, (N,); None where it is not known."""
    read_pixels: Callable[[], NDArray[Any] | None] = lambda: None
    """The image's values as stored; None where they are not known."""
    pictures: Mapping[str, Callable[[], NDArray[np.uint8]]] = field(default_factory=dict)
    """Draw what only a prediction can show, by the name of the format."""


def _nothing(*_: Any) -> Any:
    return None


@dataclass(frozen=True)
class Writer:
    """How one format is written."""

    help: str
    option: str
    _: KW_ONLY
    metavar: Literal["DIR", "FILE", "PATH"] = "DIR"
    """A folder of a file for each image; a file of all; a PATH that ends in .csv is a file, too."""
    suffix: str = ""
    """End of the name of an image's file, after the image id."""
    write: Callable[[Path, SegmentedImage], None] = _nothing
    """Writes the file of one image."""
    collect: Callable[[SegmentedImage], Any] = _nothing
    """The image's part of a file of all images, of values that JSON can keep ..."""
    write_all: Callable[[Path, Iterable[Any]], None] = _nothing
    """... and the file from the parts."""
    requires: tuple[str, str] | None = None
    """The package that it needs and the extra that installs it."""
    predict_only: bool = False
    """Whether it needs a prediction, so that `export` cannot write it."""
    needs_image: bool = False
    """Whether it makes use of the image's pixels where they are known."""


def _load(module: str) -> Any:
    """Import when something is written, not before: `--help` reads the registry, too."""
    return import_module(f"flowseg.{module}")


def _collect_cells(item: SegmentedImage) -> Any:
    return _load("formats.cell_table").cell_rows(
        item.image_id,
        item.labels,
        cell_type=item.cell_type,
        cellprob=item.cellprob,
        scores=item.compute_scores(),
        pixel_size=item.pixel_size,
        image=item.read_pixels(),
    )


def _picture(name: str, text: str) -> Writer:
    return Writer(
        text,
        f"--{name}",
        suffix=".png",
        write=lambda path, item: _load("io.images").write_image(path, item.pictures[name]()),
        predict_only=True,
    )


WRITERS: Mapping[str, Writer] = {
    "submission": Writer(
        "the competition's CSV",
        "--out",
        metavar="FILE",
        collect=lambda item: (
            item.image_id,
            _load("formats.submission").mask_texts(item.image_id, item.labels),
        ),
        write_all=lambda path, parts: _load("formats.submission").write_submission(path, parts),
    ),
    "labels": Writer(
        "label images, NAME.tif",
        "--save-labels",
        suffix=".tif",
        write=lambda path, item: _load("io.images").write_labels(
            path, item.labels, item.pixel_size
        ),
    ),
    "label_tiff": Writer(
        "label images with ImageJ's metadata, NAME_labels.tif",
        "--label-tiff",
        suffix="_labels.tif",
        write=lambda path, item: _load("formats.imagej").write_imagej_labels(
            path, item.labels, item.pixel_size
        ),
    ),
    "rois": Writer(
        "ImageJ ROIs, NAME_rois.zip (needs roifile)",
        "--rois",
        suffix="_rois.zip",
        write=lambda path, item: _load("formats.imagej").write_rois(path, item.labels),
        requires=("roifile", "rois"),
    ),
    "seg_npy": Writer(
        "Cellpose's NAME_seg.npy",
        "--seg-npy",
        suffix="_seg.npy",
        write=lambda path, item: _load("formats.seg_npy").write_seg(
            path, item.labels, file_name=item.file_name, image=item.image
        ),
        needs_image=True,
    ),
    "geojson": Writer(
        "outlines for QuPath, NAME.geojson",
        "--geojson",
        suffix=".geojson",
        write=lambda path, item: _load("formats.geojson").write_geojson(
            path, item.labels, cell_type=item.cell_type, scores=item.compute_scores()
        ),
    ),
    "coco": Writer(
        "COCO JSON of all images",
        "--coco",
        metavar="FILE",
        collect=lambda item: _load("formats.coco").coco_image(
            item.file_name, item.labels, cell_type=item.cell_type, scores=item.compute_scores()
        ),
        write_all=lambda path, parts: _load("formats.coco").write_coco(path, parts),
    ),
    "cells": Writer(
        "cell tables (area, position, shape, intensity, score, area in um2): one of all images "
        "where PATH ends in .csv, else NAME_cells.csv in a folder",
        "--cells",
        metavar="PATH",
        suffix="_cells.csv",
        write=lambda path, item: _load("formats.cell_table").write_cells(
            path, [_collect_cells(item)]
        ),
        collect=_collect_cells,
        write_all=lambda path, parts: _load("formats.cell_table").write_cells(path, parts),
        needs_image=True,
    ),
    "overlays": _picture("overlays", "overlays: images with the cells' outlines, NAME.png"),
    "fields": _picture("fields", "pictures of flows and cellprob, NAME.png"),
    "disagreement": _picture(
        "disagreement", "pictures of where models and augmented views disagree, NAME.png"
    ),
}
"""Every format that can be written, by its name in `Formats`."""

_ZARR = Writer(
    "label images, NAME.zarr",
    "--save-labels",
    suffix=".zarr",
    write=lambda path, item: _load("io.label_rows").write_labels_by_rows(
        path, iter([item.labels]), item.labels.shape
    ),
    requires=("zarr", "zarr"),
)


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
    geojson : path, optional
        Folder of outlines for QuPath, ``NAME.geojson``.
    coco : path, optional
        One COCO JSON file.
    cells : path, optional
        Cell tables: one file where it ends in .csv, else a folder of ``NAME_cells.csv``.
    overlays, fields, disagreement : path, optional
        Folders of pictures, ``NAME.png``: outlines over the image; flows (direction as hue) beside
        cellprob (as heat); where networks and augmented views disagree. Of predictions only.
    labels_format : {"tiff", "zarr"}
        File format of `labels`.
    blank_failed : bool
        Whether an image that cannot be done has a row with nothing in the submission; else none.
    """

    submission: PathLike | None = None
    labels: PathLike | None = None
    label_tiff: PathLike | None = None
    rois: PathLike | None = None
    seg_npy: PathLike | None = None
    geojson: PathLike | None = None
    coco: PathLike | None = None
    cells: PathLike | None = None
    overlays: PathLike | None = None
    fields: PathLike | None = None
    disagreement: PathLike | None = None
    labels_format: Literal["tiff", "zarr"] = "tiff"
    blank_failed: bool = False

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

    def outputs(self, image_ids: Iterable[str]) -> Iterator[Path]:
        """Every file that the images of these ids give."""
        yield from self.collected().values()
        for image_id in image_ids:
            yield from self.files(image_id).values()

    @property
    def needs_image(self) -> bool:
        """Whether a format shows or measures the image's own pixels."""
        return any(self._writer(name).needs_image for name in self.paths)

    def check(self) -> None:
        """Refuse what cannot be written, before work starts; folders are made."""
        for name, path in self.paths.items():
            if (requires := self._writer(name).requires) is not None:
                require(*requires)
            if _is_one_file(name, path):
                ensure_writable_file(path)
            else:
                ensure_writable_folder(path)

    def write(self, item: SegmentedImage) -> dict[str, Any]:
        """Write the files of one image; its part of each file of all, for `write_collected`."""
        for name, path in self.files(item.image_id).items():
            self._writer(name).write(path, item)
        return {name: self._writer(name).collect(item) for name in self.collected()}

    def write_collected(self, images: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Write the files of all images; `images` gives what `write` returned, once a file.

        Parts of an image that was not written may be some of these only.
        """
        for name, path in self.collected().items():
            parts = (one[name] for one in images() if name in one)
            self._writer(name).write_all(path, parts)

    def _writer(self, name: str) -> Writer:
        return _ZARR if name == "labels" and self.labels_format == "zarr" else WRITERS[name]


def _is_one_file(name: str, path: Path) -> bool:
    metavar = WRITERS[name].metavar
    return metavar == "FILE" or (metavar == "PATH" and path.suffix.lower() == ".csv")
