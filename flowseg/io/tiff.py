"""TIFF files: their pages, checked against the file before memory is taken, and their pixels."""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from flowseg.errors import FlowsegError
from flowseg.io.png_jpeg import (
    AGAIN,
    MAX_PIXELS,
    check_size,
    cut_off,
    damaged,
    jpeg_shape,
    open_binary,
    size_of,
    unpack,
)

__all__ = [
    "TIFF",
    "check_segment",
    "check_tiff",
    "needs_codec",
    "read_tiff",
    "read_tiff_page",
    "tiff_page",
    "tiff_pages",
]

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_LZW = 5
_JPEG = 7
_DEFLATE = (8, 32946)
_JPEG_2000 = (33003, 33005, 34712)
_CODECS = (1, _LZW, _JPEG, *_DEFLATE, 32773, *_JPEG_2000, 50000)
"""TIFF: none, LZW, JPEG, deflate, PackBits, JPEG 2000, Zstandard; others may unpack without end."""
_UNPACK_MORE = (*_DEFLATE, _JPEG, *_JPEG_2000)  # than is asked for, of tifffile's decoders
_SIZES = (
    *("imagelength", "imagewidth", "imagedepth", "tilelength", "tilewidth", "tiledepth"),
    *("rowsperstrip", "samplesperpixel"),
)
_TAG = 12  # bytes of an entry in the list of a page's properties, at least
_BLIND = 2**16  # bytes of deflate that are unpacked without a look at what they become
_LARGE_TILE = 2**24  # bytes; a small image may lie in a tile of many times its size

# tifffile logs what it finds odd in a file; without a handler that would reach stderr
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@contextmanager
def tiff_pages(path: Path) -> Iterator[tuple[IO[bytes], list[Any]]]:
    """The file and the pages of a TIFF, those of a pyramid's lower levels left out.

    A page is checked by :func:`check_tiff` before its pixels are read. Whatever tifffile raises
    inside the block becomes a FlowsegError.
    """
    with open_binary(path) as file, _tiff_pages(file, path) as pages:
        yield file, pages


@contextmanager
def _tiff_pages(file: IO[bytes], path: Path) -> Iterator[list[Any]]:
    import tifffile

    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            listed = _listed(tiff.pages, size_of(file), path)
            pages = [page for page in listed if not page.is_reduced]
            if not pages:
                raise FlowsegError("is damaged: it holds no page", file=path, remedy=AGAIN)
            if tiff.is_imagej and len(pages) == 1:  # ImageJ keeps a large stack behind one page
                _refuse_several(int((tiff.imagej_metadata or {}).get("images", 1)), path)
            yield pages
    except FlowsegError:
        raise
    except Exception as error:  # a damaged TIFF fails anywhere in tifffile, with any exception
        raise damaged(error, path) from error


def _listed(pages: Any, size: int, path: Path) -> Iterator[Any]:
    """The pages; of a list that goes round in circles, or over itself, tifffile finds no end."""
    seen: set[int] = set()
    length = 0
    for page in pages:
        length += _TAG * len(getattr(page, "tags", ()))
        if page.offset in seen or length > size:
            raise FlowsegError("is damaged: its list of pages has no end", file=path, remedy=AGAIN)
        if page.offset is not None:  # of pages that lie one after the other in one block
            seen.add(page.offset)
        yield page


@contextmanager
def tiff_page(file: IO[bytes], path: Path) -> Iterator[Any]:
    """The only page of a TIFF, its header checked against the file."""
    with _tiff_pages(file, path) as pages:
        _refuse_several(len(pages), path)
        check_tiff(pages[0], file, path)
        yield pages[0]


def _refuse_several(count: int, path: Path) -> None:
    if count > 1:
        raise FlowsegError(
            f"holds {count} images, one is expected",
            file=path,
            remedy="save each as a file of its own",
        )


def check_tiff(page: Any, file: IO[bytes], path: Path, limit: int = MAX_PIXELS) -> None:
    """Refuse a TIFF's page whose header does not fit the file, or of more than `limit` pixels."""
    if not all(isinstance(getattr(page, size), int) for size in _SIZES):
        raise FlowsegError("is damaged: one of its sizes is no number", file=path, remedy=AGAIN)
    pixel = int(page.samplesperpixel) * max(1, int(page.bitspersample) // 8)
    check_size((int(page.imagelength), int(page.imagewidth)), file, path, pixel, limit)
    if page.ndim not in (2, 3) or (page.ndim == 3 and page.axes not in ("YXS", "SYX")):
        raise FlowsegError(f"has the axes {page.axes}, not one flat image", file=path)
    if page.dtype is None or page.dtype.kind not in "buif":
        raise FlowsegError("holds no numbers that can be read as an image", file=path)
    room = max(4 * int(page.imagelength) * int(page.imagewidth) * pixel, _LARGE_TILE)
    if math.prod(int(edge) for edge in page.chunks) * page.dtype.itemsize > room:
        raise FlowsegError("is damaged: its tiles are far larger than it is", file=path)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(segments) < int(np.prod(page.chunked)):
        raise cut_off(path)
    size = size_of(file)
    if any(start <= 0 or count <= 0 or start + count > size for start, count in segments):
        raise cut_off(path)
    # an empty tile may stand for many; different ones of the same bytes take time without end
    if sum(count for _, count in set(segments)) > 2 * size:
        raise FlowsegError("is damaged: its tiles lie one over the other", file=path, remedy=AGAIN)
    if page.compression not in _CODECS or (page.compression in _DEFLATE and page.fillorder != 1):
        raise FlowsegError(
            f"is packed in a way (TIFF compression {int(page.compression)}) that is not read",
            file=path,
            remedy="save it again, packed with deflate or LZW or not at all",
        )


def check_segment(page: Any, data: bytes, path: Path) -> None:
    """Refuse a strip or tile that unpacks to far more than the page's header says."""
    values = math.prod(int(edge) for edge in page.chunks)
    if page.compression in _DEFLATE:
        bad = len(data) > _BLIND and _inflates_beyond(data, values * page.dtype.itemsize)
    elif page.compression == _JPEG:
        whole = io.BytesIO((page.keyframe.jpegheader or b"") + data)
        bad = math.prod(jpeg_shape(whole, path)) > max(4 * values, _LARGE_TILE)
    elif page.compression in _JPEG_2000:
        bad = math.prod(_jpeg_2000_shape(data, path)) > max(4 * values, _LARGE_TILE)
    else:
        bad = False
    if bad:
        raise FlowsegError("is damaged: a tile unpacks to more than its size", file=path)


def _jpeg_2000_shape(data: bytes, path: Path) -> tuple[int, int, int]:
    """Height, width and channels of JPEG 2000 as a TIFF holds it: bare, in no boxes."""
    if not data.startswith(b"\xff\x4f\xff\x51") or len(data) < 42:
        raise FlowsegError("is damaged: it has no JPEG 2000 header", file=path, remedy=AGAIN)
    right, bottom, left, top, channels = struct.unpack_from(">IIII16xH", data, 8)
    return max(0, bottom - top), max(0, right - left), channels


def _inflates_beyond(data: bytes, limit: int) -> bool:
    """Whether deflated bytes unpack to more than `limit`; tifffile would unpack all of them."""
    inflate, total = zlib.decompressobj(), 0
    while data and total <= limit and not inflate.eof:
        total += len(inflate.decompress(data, 2**24))
        data = inflate.unconsumed_tail
    return total > limit


def read_tiff(file: IO[bytes], path: Path) -> npt.NDArray[Any]:
    with tiff_page(file, path) as page:
        plain = page.photometric in (1, 2) and page.axes in ("YX", "YXS")
        if page.compression == _LZW and plain and page.dtype in (np.uint8, np.uint16):
            # LIVECell is LZW, for which tifffile wants imagecodecs; OpenCV brings libtiff
            file.seek(0)
            image = unpack(file.read(), path)
            if image.shape != page.shape or image.dtype != page.dtype:
                raise FlowsegError("is damaged", file=path, remedy=AGAIN)
            return image
        return read_tiff_page(page, path)


def read_tiff_page(page: Any, path: Path) -> npt.NDArray[Any]:
    """The pixels of a checked page: (H, W) or (H, W, C), values as stored."""
    if page.compression in _UNPACK_MORE:
        file = page.parent.filehandle
        for start, count in sorted(set(zip(page.dataoffsets, page.databytecounts, strict=False))):
            file.seek(start)
            check_segment(page, file.read(count), path)
    with needs_codec(page, path):
        image = page.asarray()
    if page.axes == "SYX":
        image = np.moveaxis(image, 0, -1)
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
