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
from flowseg.io.physical import PixelSize, channel_number, warn_of_channels
from flowseg.io.tiff import (
    check_tiff,
    interpretation,
    native,
    needs_codec,
    read_tiff_page,
    sample_count,
    tiff_page_at,
    tiff_pages,
)
from flowseg.io.tiff_metadata import page_channels, pixel_size
from flowseg.io.zarr import is_zarr, list_zarr, open_zarr, read_zarr

Shape = tuple[int, int]
ReadRegion = Callable[[slice, slice], NDArray[Any]]
"""Pixels of some rows and columns, values as stored: (h, w) or (h, w, C)."""

_CACHE = 2**28  # bytes of unpacked strips and tiles kept while regions are read
_SAMPLES = 4  # that a PNG has at most
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
    offset: int | None = None
    """Of a TIFF: where the directory of the page lies in the file."""
    array: str = ""
    plane: tuple[int, ...] = ()
    """Of a Zarr folder: the array, and the indices before those of rows and columns."""
    channel: int | None = None
    """The sample of each pixel that is read; None: all."""
    pixel_size: PixelSize | None = None
    nuclei: ImageSource | None = None
    """Where the nuclei of the same cells are, if they are wanted."""

    @property
    def file_name(self) -> str:
        """The file's name in the results, its suffix included."""
        name = self.image_id if self.alone else self.image_id.removesuffix(f"_{self.index:04d}")
        return name + self.path.suffix

    def read(self, *, as_stored: bool = False) -> NDArray[Any]:
        """The whole image: (H, W) or (H, W, C).

        A TIFF's page is interpreted as it says, unless its values are wanted `as_stored`.
        """
        if is_zarr(self.path):
            array = open_zarr(self.path, self.array, MAX_PIXELS)
            return read_zarr(array, self.path, self.plane)
        if self.offset is None:
            image = read_image(self.path)
            if self.channel is None:
                return image
            image = np.atleast_3d(image)
            return image[..., channel_number(self.channel, image.shape[2], (), self.path)]
        with tiff_page_at(self.path, self.offset) as page:
            check_tiff(page, self.path)
            return read_tiff_page(page, self.path, channel=self.channel, as_stored=as_stored)

    @contextmanager
    def open_planes(self) -> Iterator[list[ReadRegion]]:
        """Read the image, and its nuclei if they are wanted, region by region."""
        sources = [self] if self.nuclei is None else [self, self.nuclei]
        with ExitStack() as stack:
            yield [stack.enter_context(source.open_regions()) for source in sources]

    @contextmanager
    def open_regions(self) -> Iterator[ReadRegion]:
        """Read the image region by region; of a TIFF or Zarr only the region is unpacked."""
        if is_zarr(self.path):
            array = open_zarr(self.path, self.array, _MAX_SLIDE)
            yield lambda rows, columns: read_zarr(array, self.path, self.plane, rows, columns)
        elif self.offset is None:
            image = self.read()
            yield lambda rows, columns: image[rows, columns]
        else:
            # Closed by hand: what fails while the regions are used is not the file's fault.
            with ExitStack() as stack:
                page = stack.enter_context(tiff_page_at(self.path, self.offset))
                check_tiff(page, self.path, _MAX_SLIDE)
                if page.axes not in ("YX", "YXS"):
                    raise FlowsegError(
                        "is too large for its colours to be stored one after the other",
                        file=self.path,
                        remedy="save it with interleaved colours, or as grey",
                    )
                interpret = interpretation(page, self.path, self.channel)
                opened = stack.pop_all()
            try:
                reader = _read_contiguous if page.is_contiguous else _read_segments
                read = reader(page, self.path)
                yield lambda rows, columns: interpret(read(rows, columns))
            finally:
                opened.close()


def list_images(
    path: PathLike, channel: int | str | None = None, name: str | None = None
) -> list[ImageSource]:
    """The images of a file: one, or of a TIFF as many as it has pages.

    Parameters
    ----------
    path : path
        PNG, JPEG, TIFF (OME-TIFF, BigTIFF and multi-page too), or a Zarr folder.
    channel : int or str, optional
        The only channel to list, from 0 or by its name. By default every page or plane is an
        image, those of all channels.
    name : str, optional
        Of the file in the results; by default its own without the suffix.

    Returns
    -------
    list of ImageSource
        In the file's order. The lower levels of a pyramid, thumbnails and masks are left out.

    Raises
    ------
    FlowsegError
        If the file is missing, damaged or no image, as far as its header tells; if it has no such
        channel.
    """
    path = Path(path)
    images: list[dict[str, Any]]
    if is_zarr(path):
        images = [image._asdict() for image in list_zarr(path, _MAX_SLIDE, channel)]
    elif is_tiff(path):
        images = _tiff_images(path, channel)
    else:
        sample = None if channel is None else channel_number(channel, _SAMPLES, (), path)
        images = [{"shape": image_shape(path), "channel": sample}]
    name = path.stem if name is None else name
    alone = len(images) == 1
    return [
        ImageSource(
            path=path,
            index=index,
            image_id=name if alone else f"{name}_{index:04d}",
            alone=alone,
            **image,
        )
        for index, image in enumerate(images)
    ]


def read_pixel_size(path: Path) -> PixelSize | None:
    """The size of a pixel of an image or label file, where that says it."""
    if is_zarr(path):
        return list_images(path)[0].pixel_size
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    with tiff_page_at(path) as page:
        return pixel_size(page)


def _tiff_images(path: Path, channel: int | str | None) -> list[dict[str, Any]]:
    """The pages of a TIFF that are images of the channel."""
    with tiff_pages(path) as pages:
        sample, chosen = None, pages
        several = len(pages) > 1 or channel is not None
        channels, names = page_channels(pages) if several else (None, [])
        count = len(set(channels or ()))
        if channel is None:
            if count > 1:
                warn_of_channels(path, count, names)
        else:
            if channels is None:  # the file does not say what its pages are
                channels, count = list(range(len(pages))), len(pages)
            if count > 1:
                number = channel_number(channel, count, names, path)
                chosen = [page for page, c in zip(pages, channels, strict=True) if c == number]
            else:
                samples = sample_count(pages[0])
                number = channel_number(channel, samples, names, path)
                sample = number if samples > 1 else None
        size = pixel_size(chosen[0])
        return [
            {
                "shape": (int(page.imagelength), int(page.imagewidth)),
                "offset": int(page.offset),
                "channel": sample,
                "pixel_size": size,
            }
            for page in chosen
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
