"""From the bytes of an image file to its pixels, with nothing taken on trust.

A file is known by its first bytes, not by its suffix: PNG and JPEG are decoded by OpenCV, TIFF by
tifffile. OpenCV returns a picture with a grey or black rest for a file that ends too early, so a
file is checked for completeness first, and the size in its header before any memory is taken.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from flowseg.errors import FlowsegError, out_of_memory

__all__ = [
    "MAX_PIXELS",
    "check_tiff",
    "image_shape",
    "is_tiff",
    "load_cv2",
    "needs_codec",
    "read_image",
    "read_tiff_page",
    "tiff_pages",
]

MAX_PIXELS = 2**29
"""Largest image read at once: 23,170 x 23,170 pixels."""

_MAX_RATIO = 2500  # no codec read here packs more bytes into one (zlib: 1032)
_MAX_FILE = 2**32  # bytes of a PNG or JPEG; the largest allowed image needs less even unpacked
_AGAIN = "copy or download it again"

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LZW = 5
_DEFLATE = (8, 32946)
_CODECS = (1, _LZW, 7, *_DEFLATE, 32773, 33003, 33005, 34712, 50000)
"""TIFF: none, LZW, JPEG, deflate, PackBits, JPEG 2000, Zstandard; others may unpack without end."""
_TAG = 12  # bytes of an entry in the list of a page's properties, at least
_BLIND = 2**16  # bytes of deflate that are unpacked without a look at what they become
_LARGE_TILE = 2**24  # bytes; a small image may lie in a tile of many times its size

# tifffile logs what it finds odd in a file; without a handler that would reach stderr
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@cache
def load_cv2() -> Any:
    """Import OpenCV, or say what a bare server lacks.

    Raises
    ------
    FlowsegError
        If OpenCV is not installed or one of the system's libraries it needs is missing.
    """
    try:
        cv2 = import_module("cv2")
        # problems of a file are raised here, in one line; OpenCV would print them as well
        if hasattr(cv2, "setLogLevel"):  # OpenCV 4
            cv2.setLogLevel(0)
        else:
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise FlowsegError(
            "OpenCV is not installed", remedy="install it: pip install opencv-python"
        ) from error
    except ImportError as error:
        raise FlowsegError(
            f"OpenCV cannot be loaded: {error}",
            remedy="install what it needs (Debian, Ubuntu: apt-get install libgl1 libglib2.0-0) "
            "or the build that needs no display: "
            "pip uninstall opencv-python && pip install opencv-python-headless",
        ) from error
    return cv2


def read_image(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Read one image, values as stored.

    Parameters
    ----------
    path : path
        A PNG, JPEG or TIFF file of one image.

    Returns
    -------
    ndarray, (H, W) or (H, W, C)
        Grey, or colour in the order red, green, blue, alpha; dtype as stored. A PNG with a
        palette is returned as colour, a TIFF with a palette as its indices.

    Raises
    ------
    FlowsegError
        If the file is missing, empty, cut off, damaged, no image, larger than `MAX_PIXELS`, or
        a TIFF of several pages.
    """
    path = Path(path)
    with _opened(path) as file:
        kind = _kind(file, path)
        if kind == "tiff":
            return _read_tiff(file, path)
        _check_size(
            _png_shape(file, path) if kind == "png" else _jpeg_shape(file, path), file, path
        )
        file.seek(0)
        data = file.read()
    if kind == "png":
        _check_png(data, path)
    else:
        _check_jpeg(data, path)
    return _decode(data, path)


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image in pixels, from its header alone.

    Raises
    ------
    FlowsegError
        As `read_image`, as far as the header tells.
    """
    path = Path(path)
    with _opened(path) as file:
        kind = _kind(file, path)
        if kind == "tiff":
            with _tiff_page(file, path) as page:
                return int(page.imagelength), int(page.imagewidth)
        shape = _png_shape(file, path) if kind == "png" else _jpeg_shape(file, path)
        _check_size(shape, file, path)
        return shape


def is_tiff(path: Path) -> bool:
    """Whether the file's first bytes are those of a TIFF."""
    with _opened(path) as file:
        return _kind(file, path) == "tiff"


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise FlowsegError("is missing", file=path) from error
    except IsADirectoryError as error:
        raise FlowsegError("is a folder, not a file", file=path) from error
    except (OSError, ValueError) as error:
        raise FlowsegError(f"cannot be read: {error}", file=path) from error


def _size(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)


def _kind(file: IO[bytes], path: Path) -> str:
    start = file.read(8)
    if not start:
        raise FlowsegError("is empty", file=path, remedy=_AGAIN)
    if start == _PNG:
        kind = "png"
    elif start.startswith(_JPEG):
        kind = "jpeg"
    elif start.startswith(_TIFF):
        return "tiff"
    else:
        raise FlowsegError("is no PNG, JPEG or TIFF image", file=path)
    if _size(file) > _MAX_FILE:
        raise FlowsegError("is too large a file for one image", file=path)
    return kind


def _check_size(
    shape: tuple[int, int],
    file: IO[bytes],
    path: Path,
    pixel_bytes: int = 1,
    limit: int = MAX_PIXELS,
) -> None:
    height, width = shape
    if height < 1 or width < 1:
        raise FlowsegError(f"claims a size of {width} x {height} pixels", file=path)
    if height * width > limit:
        raise FlowsegError(
            f"claims {width} x {height} pixels, more than the {limit:,} read at once",
            file=path,
            remedy="cut it into smaller images",
        )
    if height * width * pixel_bytes > _MAX_RATIO * _size(file):
        raise FlowsegError(
            f"claims {width} x {height} pixels but is only {_size(file)} bytes long",
            file=path,
            remedy=_AGAIN,
        )


def _cut_off(path: Path) -> FlowsegError:
    return FlowsegError("is cut off: the end of the image is missing", file=path, remedy=_AGAIN)


def _decode(data: bytes, path: Path) -> npt.NDArray[Any]:
    cv2 = load_cv2()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise _damaged(error, path, "is damaged") from error
    if image is None:
        raise FlowsegError("is damaged", file=path, remedy=_AGAIN)
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]  # OpenCV keeps blue first
    return np.ascontiguousarray(image)


def _png_shape(file: IO[bytes], path: Path) -> tuple[int, int]:
    file.seek(8)
    head = file.read(16)
    if len(head) < 16:
        raise _cut_off(path)
    if head[4:8] != b"IHDR":
        raise FlowsegError("is damaged: it has no PNG header", file=path, remedy=_AGAIN)
    width, height = struct.unpack(">II", head[8:])
    return height, width


def _check_png(data: bytes, path: Path) -> None:
    """Walk the chunks to IEND; each one complete and with the right checksum."""
    position, view = 8, memoryview(data)
    while True:
        if position + 12 > len(data):
            raise _cut_off(path)
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _cut_off(path)
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise FlowsegError("is damaged: a checksum is wrong", file=path, remedy=_AGAIN)
        if data[position + 4 : position + 8] == b"IEND":
            return
        position = end


def _jpeg_shape(file: IO[bytes], path: Path) -> tuple[int, int]:
    file.seek(2)
    while True:
        head = file.read(4)
        if len(head) < 4:
            raise _cut_off(path)
        marker, (length,) = head[1], struct.unpack(">H", head[2:])
        if head[0] != 0xFF or length < 2:
            raise FlowsegError("is damaged: it has no JPEG header", file=path, remedy=_AGAIN)
        if marker == 0xFF:  # padding
            file.seek(-3, os.SEEK_CUR)
            continue
        if marker in _JPEG_SIZE_MARKERS:
            body = file.read(5)
            if len(body) < 5:
                raise _cut_off(path)
            height, width = struct.unpack(">HH", body[1:])
            return height, width
        file.seek(length - 2, os.SEEK_CUR)


def _check_jpeg(data: bytes, path: Path) -> None:
    """The end marker stands after the start of the scan (a thumbnail may bring its own)."""
    if data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise _cut_off(path)


@contextmanager
def tiff_pages(path: Path) -> Iterator[tuple[IO[bytes], list[Any]]]:
    """The file and the pages of a TIFF, those of a pyramid's lower levels left out.

    A page is checked by :func:`check_tiff` before its pixels are read. Whatever tifffile raises
    inside the block becomes a FlowsegError.
    """
    with _opened(path) as file, _tiff_pages(file, path) as pages:
        yield file, pages


@contextmanager
def _tiff_pages(file: IO[bytes], path: Path) -> Iterator[list[Any]]:
    import tifffile

    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            listed = _listed(tiff.pages, _size(file), path)
            pages = [page for page in listed if not page.is_reduced]
            if not pages:
                raise FlowsegError("is damaged: it holds no page", file=path, remedy=_AGAIN)
            if tiff.is_imagej and len(pages) == 1:  # ImageJ keeps a large stack behind one page
                _refuse_several(int((tiff.imagej_metadata or {}).get("images", 1)), path)
            yield pages
    except FlowsegError:
        raise
    except Exception as error:  # a damaged TIFF fails anywhere in tifffile, with any exception
        raise _damaged(error, path) from error


def _damaged(error: Exception, path: Path, problem: str | None = None) -> FlowsegError:
    """What a decoder's error means: the file is damaged, unless memory ran out."""
    problem = f"is damaged: {error}" if problem is None else problem
    return out_of_memory(error, path) or FlowsegError(problem, file=path, remedy=_AGAIN)


def _listed(pages: Any, size: int, path: Path) -> Iterator[Any]:
    """The pages; of a list that goes round in circles, or over itself, tifffile finds no end."""
    seen: set[int] = set()
    length = 0
    for page in pages:
        length += _TAG * len(getattr(page, "tags", ()))
        if page.offset in seen or length > size:
            raise FlowsegError("is damaged: its list of pages has no end", file=path, remedy=_AGAIN)
        if page.offset is not None:  # of pages that lie one after the other in one block
            seen.add(page.offset)
        yield page


@contextmanager
def _tiff_page(file: IO[bytes], path: Path) -> Iterator[Any]:
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
    pixel = int(page.samplesperpixel) * max(1, int(page.bitspersample) // 8)
    _check_size((int(page.imagelength), int(page.imagewidth)), file, path, pixel, limit)
    if page.ndim not in (2, 3) or (page.ndim == 3 and page.axes not in ("YXS", "SYX")):
        raise FlowsegError(f"has the axes {page.axes}, not one flat image", file=path)
    if page.dtype is None or page.dtype.kind not in "buif":
        raise FlowsegError("holds no numbers that can be read as an image", file=path)
    room = max(4 * int(page.imagelength) * int(page.imagewidth) * pixel, _LARGE_TILE)
    if math.prod(int(edge) for edge in page.chunks) * page.dtype.itemsize > room:
        raise FlowsegError("is damaged: its tiles are far larger than it is", file=path)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(segments) < int(np.prod(page.chunked)):
        raise _cut_off(path)
    if any(start <= 0 or count <= 0 or start + count > _size(file) for start, count in segments):
        raise _cut_off(path)
    if page.compression not in _CODECS:
        raise FlowsegError(
            f"is packed in a way (TIFF compression {int(page.compression)}) that is not read",
            file=path,
            remedy="save it again, packed with deflate or LZW or not at all",
        )
    if page.compression in _DEFLATE:
        unpacked = int(np.prod(page.chunks)) * page.dtype.itemsize
        for start, count in segments:
            if count > _BLIND and _inflates_beyond(file, start, count, unpacked):
                raise FlowsegError("is damaged: it unpacks to more than its size", file=path)


def _inflates_beyond(file: IO[bytes], start: int, count: int, limit: int) -> bool:
    """Whether deflated bytes unpack to more than `limit`; tifffile would unpack all of them."""
    file.seek(start)
    inflate, total = zlib.decompressobj(), 0
    data = file.read(count)
    while data and total <= limit and not inflate.eof:
        total += len(inflate.decompress(data, 2**24))
        data = inflate.unconsumed_tail
    return total > limit


def _read_tiff(file: IO[bytes], path: Path) -> npt.NDArray[Any]:
    with _tiff_page(file, path) as page:
        plain = page.photometric in (1, 2) and page.axes in ("YX", "YXS")
        if page.compression == _LZW and plain and page.dtype in (np.uint8, np.uint16):
            # LIVECell is LZW, for which tifffile wants imagecodecs; OpenCV brings libtiff
            file.seek(0)
            image = _decode(file.read(), path)
            if image.shape != page.shape or image.dtype != page.dtype:
                raise FlowsegError("is damaged", file=path, remedy=_AGAIN)
            return image
        return read_tiff_page(page, path)


def read_tiff_page(page: Any, path: Path) -> npt.NDArray[Any]:
    """The pixels of a checked page: (H, W) or (H, W, C), values as stored."""
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
