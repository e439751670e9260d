"""The images of a file, read whole or by region: pages of a TIFF, whole slides, Zarr arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError
from flowseg.io.binary import MAX_PIXELS, cut_off, decoding
from flowseg.io.images import image_shape, is_tiff, read_image
from flowseg.io.paths import PathLike
from flowseg.io.tiff import check_tiff, native, needs_codec, read_tiff_page, tiff_pages
from flowseg.io.zarr import is_zarr, open_zarr, read_zarr

Shape = tuple[int, int]
ReadRegion = Callable[[slice, slice], NDArray[Any]]
"""Pixels of some rows and columns, values as stored: (h, w) or (h, w, C)."""

_CACHE = 2**28  # bytes of unpacked strips and tiles kept while regions are read
_MAX_SLIDE = 2**40  # pixels


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """One image of a file."""

    path: Path
    index: int
    """Which of the file's images, from 0."""
    image_id: str
    """The file's name without suffix; of several images with ``_0000`` and so on."""
    shape: Shape
    """Height and width in pixels."""
    alone: bool
    """Whether it is the file's only image."""

    def read(self) -> NDArray[Any]:
        """The whole image, values as stored: (H, W) or (H, W, C)."""
        if is_zarr(self.path):
            return read_zarr(open_zarr(self.path, MAX_PIXELS), self.path)
        if self.alone:
            return read_image(self.path)
        with tiff_pages(self.path) as pages:
            check_tiff(pages[self.index], self.path)
            return read_tiff_page(pages[self.index], self.path)

    @contextmanager
    def open_regions(self) -> Iterator[ReadRegion]:
        """Read the image region by region; of a TIFF or Zarr only the region is unpacked."""
        if is_zarr(self.path):
            array = open_zarr(self.path, _MAX_SLIDE)
            yield lambda rows, columns: read_zarr(array, self.path, rows, columns)
        elif not is_tiff(self.path):
            image = self.read()
            yield lambda rows, columns: image[rows, columns]
        else:
            # Closed by hand: what fails while the regions are used is not the file's fault.
            with ExitStack() as stack:
                page = stack.enter_context(tiff_pages(self.path))[self.index]
                check_tiff(page, self.path, _MAX_SLIDE)
                if page.axes not in ("YX", "YXS"):
                    raise FlowsegError(
                        "is too large for its colours to be stored one after the other",
                        file=self.path,
                        remedy="save it with interleaved colours, or as grey",
                    )
                opened = stack.pop_all()
            try:
                read = _read_contiguous if page.is_contiguous else _read_segments
                yield read(page, self.path)
            finally:
                opened.close()


def list_images(path: PathLike) -> list[ImageSource]:
    """The images of a PNG, JPEG, TIFF (a page is an image; not a pyramid's lower levels) or Zarr.

    Raises
    ------
    FlowsegError
        If the file is missing, damaged or no image, as far as its header tells.
    """
    path = Path(path)
    shapes: list[Shape]
    if is_zarr(path):
        shapes = [open_zarr(path, _MAX_SLIDE).shape[:2]]
    elif not is_tiff(path):
        shapes = [image_shape(path)]
    else:
        with tiff_pages(path) as pages:
            shapes = [(int(page.imagelength), int(page.imagewidth)) for page in pages]
    alone = len(shapes) == 1
    return [
        ImageSource(
            path=path,
            index=index,
            image_id=path.stem if alone else f"{path.stem}_{index:04d}",
            shape=shape,
            alone=alone,
        )
        for index, shape in enumerate(shapes)
    ]


def find_image(image_id: str, files: Mapping[str, Path]) -> ImageSource | None:
    """The image of an id among files by name without suffix: a file, or a page as `list_images`.

    Raises
    ------
    FlowsegError
        As `list_images`; also if the file of this name holds several images.
    """
    if image_id in files:
        images = list_images(files[image_id])
        if len(images) > 1:
            raise FlowsegError(
                f"holds {len(images)} images, but there are labels of one",
                file=files[image_id],
                remedy=f"name the labels of its pages {images[0].image_id} and so on",
            )
        return images[0]
    stem, _, number = image_id.rpartition("_")
    if stem not in files or not number.isdecimal():
        return None
    pages = _pages(files[stem], files[stem].stat().st_mtime_ns)
    return pages.get(image_id)


@lru_cache(maxsize=2)
def _pages(path: Path, _: int) -> dict[str, ImageSource]:
    return {image.image_id: image for image in list_images(path)}


def _read_contiguous(page: Any, path: Path) -> ReadRegion:
    """Regions of an image that lies unpacked and in one piece."""
    file, start = page.parent.filehandle, int(page.dataoffsets[0])
    dtype = np.dtype(page.parent.byteorder + page.dtype.char)
    row_shape = page.shape[1:]
    row_bytes = int(np.prod(row_shape)) * dtype.itemsize

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        file.seek(start + rows.start * row_bytes)
        data = file.read((rows.stop - rows.start) * row_bytes)
        if len(data) < (rows.stop - rows.start) * row_bytes:
            raise cut_off(path)
        return native(np.frombuffer(data, dtype).reshape(-1, *row_shape)[:, columns])

    return read


def _read_segments(page: Any, path: Path) -> ReadRegion:
    """Regions of an image in strips or tiles; those read last are kept unpacked."""
    height, width = page.chunks[:2]
    across = -(-int(page.imagewidth) // width)
    segment_bytes: int = math.prod(page.chunks) * page.dtype.itemsize

    @lru_cache(max(1, _CACHE // segment_bytes))
    def segment(index: int) -> NDArray[Any]:
        return _unpack(page, index, path)

    def read(rows: slice, columns: slice) -> NDArray[Any]:
        shape = (rows.stop - rows.start, columns.stop - columns.start, int(page.samplesperpixel))
        result = np.empty(shape, page.dtype)
        for i in range(rows.start // height, -(-rows.stop // height)):
            for j in range(columns.start // width, -(-columns.stop // width)):
                pixels = segment(i * across + j)
                top, left = i * height, j * width
                y = slice(max(rows.start, top), min(rows.stop, top + pixels.shape[0]))
                x = slice(max(columns.start, left), min(columns.stop, left + pixels.shape[1]))
                result[
                    y.start - rows.start : y.stop - rows.start,
                    x.start - columns.start : x.stop - columns.start,
                ] = pixels[y.start - top : y.stop - top, x.start - left : x.stop - left]
        return result

    return read


def _unpack(page: Any, index: int, path: Path) -> NDArray[Any]:
    """The pixels of one strip or tile."""
    with decoding(path), needs_codec(page, path):
        file = page.parent.filehandle
        file.seek(int(page.dataoffsets[index]))
        data = file.read(int(page.databytecounts[index]))
        header = page.keyframe.jpegheader
        pixels, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=header)
        _, rows, columns, samples = shape
        return np.asarray(pixels[0, :rows, :columns, :samples])
