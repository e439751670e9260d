"""TIFF files: their pages, checked against the file before memory is taken, and their pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError
from flowseg.io.binary import MAX_PIXELS, check_size, cut_off, damaged, decoding, open_binary

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_LZW = 5
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _YCBCR = 0, 1, 2, 3, 4, 6
_DECODED_TO_RGB = (6, 7, 33003, 33005, 34712)  # packed as JPEG or JPEG 2000
_ALPHA = (1, 2)
_MOST_CHANNELS, _LEAST_ROWS = 4, 16  # of an image whose rows were written as pages
_LARGE_TILE = 2**24  # bytes; a small image may lie in a tile of many times its size


@contextmanager
def tiff_pages(path: Path) -> Iterator[list[Any]]:
    """The pages of a TIFF, those of a pyramid's lower levels left out.

    A page is checked by :func:`check_tiff` before its pixels are read. Whatever tifffile raises
    inside the block becomes a FlowsegError.
    """
    import tifffile

    with open_binary(path) as file, decoding(path), tifffile.TiffFile(file) as tiff:
        listed = list(_listed(tiff, path))
        if not listed:
            raise damaged("it holds no page", path)
        pages = _full_images(tiff, listed)
        _refuse_channels_last(pages, path)
        if tiff.is_imagej and len(pages) == 1:  # ImageJ keeps a large stack behind one page
            _refuse_several(int((tiff.imagej_metadata or {}).get("images", 1)), path)
        yield pages


@contextmanager
def tiff_page_at(path: Path, offset: int | None = None) -> Iterator[Any]:
    """The page whose directory lies at `offset`, or the first, without a look at any other."""
    import tifffile

    with open_binary(path) as file, decoding(path), tifffile.TiffFile(file) as tiff:
        if offset is None:
            yield tiff.pages.first
        else:
            tiff.filehandle.seek(offset)
            yield tifffile.TiffPage(tiff, index=0)


def _full_images(tiff: Any, pages: list[Any]) -> list[Any]:
    """The pages that are images in full size: no lower level, thumbnail, label, macro or mask."""
    if tiff.is_svs or tiff.is_ndpi:  # they mark neither their levels nor their thumbnails
        return pages[:1]
    sizes = [(int(page.imagelength), int(page.imagewidth)) for page in pages]
    if len(pages) > 1 and all(_is_level(*pair) for pair in pairwise(sizes)):
        return pages[:1]
    # bit 0 of the subfile type: a reduced image, bit 2: a mask of another
    full = [page for page in pages if not page.subfiletype & 0b101 and page.photometric != _MASK]
    return full or pages


def _is_level(above: tuple[int, int], below: tuple[int, int]) -> bool:
    """Whether one size is the other divided by the same whole number, up to rounding."""
    factor = round(above[0] / max(below[0], 1))
    return factor > 1 and all(
        abs(larger - factor * smaller) <= factor
        for larger, smaller in zip(above, below, strict=True)
    )


def _listed(tiff: Any, path: Path) -> Iterator[Any]:
    """The pages one after the other; each names the next one's offset, and a damaged one any."""
    offsets: set[int] = set()
    for page in tiff.pages:
        if page.offset in offsets:
            raise damaged("its list of pages goes round in a circle", path)
        offsets.add(page.offset)
        yield page


@contextmanager
def tiff_page(path: Path) -> Iterator[Any]:
    """The only page of a TIFF, its header checked against the file."""
    with tiff_pages(path) as pages:
        _refuse_several(len(pages), path)
        check_tiff(pages[0], path)
        yield pages[0]


def _refuse_channels_last(pages: list[Any], path: Path) -> None:
    """Refuse pages that are the rows of one image: (H, W, C) written as H images of W x C."""
    height, width = int(pages[0].imagelength), int(pages[0].imagewidth)
    if len(pages) >= _LEAST_ROWS and height >= _LEAST_ROWS and width <= _MOST_CHANNELS:
        raise FlowsegError(
            f"has its {width} channels last: {len(pages)} pages of {height} x {width} pixels are "
            f"one image of {len(pages)} x {height}",
            file=path,
            remedy="save the channels first, as pages of the whole image",
        )


def _refuse_several(count: int, path: Path) -> None:
    if count > 1:
        raise FlowsegError(
            f"holds {count} images, one is expected",
            file=path,
            remedy="save each as a file of its own",
        )


def check_tiff(page: Any, path: Path, limit: int = MAX_PIXELS) -> None:
    """Refuse a TIFF's page whose header does not fit the file, or of more than `limit` pixels."""
    shape = int(page.imagelength), int(page.imagewidth)
    pixel = int(page.samplesperpixel) * max(1, int(page.bitspersample) // 8)
    check_size(shape, path, pixel, limit)
    if page.axes not in ("YX", "YXS", "SYX"):
        raise FlowsegError(f"has the axes {page.axes}, not one flat image", file=path)
    if page.dtype is None or page.dtype.kind not in "buif":
        raise FlowsegError("holds no numbers that can be read as an image", file=path)
    as_rgb = page.photometric == _YCBCR and page.compression in _DECODED_TO_RGB
    if page.photometric not in (*range(_MASK + 1), None) and not as_rgb:
        raise FlowsegError(
            f"holds colours of a kind that is not read (photometric {int(page.photometric)})",
            file=path,
            remedy="save it as grey or RGB",
        )
    room = max(4 * shape[0] * shape[1] * pixel, _LARGE_TILE)
    if math.prod(int(edge) for edge in page.chunks) * page.dtype.itemsize > room:
        raise damaged("its tiles are far larger than it is", path)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    size = path.stat().st_size
    if len(segments) < math.prod(page.chunked) or any(
        start <= 0 or count <= 0 or start + count > size for start, count in segments
    ):
        raise cut_off(path)


def read_tiff(path: Path, *, as_stored: bool = False) -> NDArray[Any]:
    """The pixels of a TIFF of one page: (H, W) or (H, W, C); see `read_tiff_page`."""
    with tiff_page(path) as page:
        return read_tiff_page(page, path, as_stored=as_stored)


def _read_lzw(page: Any, path: Path) -> NDArray[Any] | None:
    """A file's first page where Pillow reads it as it is stored.

    tifffile wants imagecodecs for LZW, and LIVECell is LZW.
    """
    from PIL.TiffImagePlugin import TiffImageFile

    plain = page.photometric in (1, 2) and page.tags.valueof("Orientation", 1) == 1
    if not plain or page.offset != page.parent.pages.first.offset:
        return None
    with open_binary(path) as file:
        try:
            image = np.array(TiffImageFile(file))
        except SyntaxError:  # numbers that Pillow does not know
            return None
    return image if (image.shape, image.dtype) == (page.shape, page.dtype) else None


def read_tiff_page(
    page: Any, path: Path, *, channel: int | None = None, as_stored: bool = False
) -> NDArray[Any]:
    """The pixels of a checked page: (H, W) or (H, W, C), as its photometric interpretation says.

    `as_stored` leaves the values as they are: label images are numbers, whatever their colours.
    """
    image = _read_lzw(page, path) if page.compression == _LZW else None
    if image is None:
        with needs_codec(page, path):
            image = page.asarray()
        image = np.moveaxis(image, 0, -1) if page.axes == "SYX" else image
    return native(image if as_stored else interpretation(page, path, channel)(image))


def sample_count(page: Any) -> int:
    """Channels of each pixel of a page, without alpha; a palette's colours are one."""
    if page.photometric in (_RGB, _YCBCR):
        return max(3, int(page.samplesperpixel) - len(page.extrasamples))
    return int(page.samplesperpixel) - sum(int(kind) in _ALPHA for kind in page.extrasamples)


def interpretation(
    page: Any, path: Path, channel: int | None = None
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What turns stored values, (h, w) or (h, w, C), into intensities or colours.

    Where white is 0 they are inverted, but for bilevel pages, which are masks; indices of a palette
    become its colours, but for ImageJ's, which only display. `channel` picks one sample.

    Raises
    ------
    FlowsegError
        If a pixel has several channels that are no colour, and none is picked.
    """
    count = sample_count(page)
    if channel is None and count > 1 and page.photometric not in (_RGB, _YCBCR):
        raise FlowsegError(
            f"has {count} channels that are no colours",
            file=path,
            remedy=f"pick one: --channel 0 to {count - 1}",
        )
    bits = int(page.bitspersample)

    def interpret(image: NDArray[Any]) -> NDArray[Any]:
        if channel is not None and image.ndim == 3:
            image = image[..., channel]
        if page.photometric == _WHITE_IS_ZERO:
            if image.dtype.kind == "u":
                return np.asarray(2**bits - 1 - image.astype(np.uint64)).astype(image.dtype)
            return (
                image
                if image.dtype == bool
                else np.asarray(~image if image.dtype.kind == "i" else -image)
            )
        if page.photometric == _PALETTE and not page.parent.is_imagej and page.colormap is not None:
            colours = _palette(page.colormap)
            return np.asarray(colours[image[..., 0] if image.ndim == 3 else image])
        return image

    return interpret


def _palette(colormap: NDArray[np.uint16]) -> NDArray[Any]:
    """Colours by index, (N, 3): uint8 where nothing is lost."""
    colours = np.ascontiguousarray(colormap.T)
    if (colours >> 8 == (colours & 255)).all() or not (colours & 255).any():
        return (colours >> 8).astype(np.uint8)
    return colours


def native(image: NDArray[Any]) -> NDArray[Any]:
    """As the machine reads it: in one piece, in its own byte order."""
    return np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("="))


@contextmanager
def needs_codec(page: Any, path: Path) -> Iterator[None]:
    """Say what is missing where a page's packing needs another package."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        raise FlowsegError(
            f"is packed in a way (TIFF compression {int(page.compression)}) "
            "that needs another package",
            file=path,
            remedy="install it: pip install imagecodecs",
        ) from error
