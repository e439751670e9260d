"""TIFF files: their pages, checked against the file before memory is taken, and their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError
from flowseg.io.binary import MAX_PIXELS, check_size, cut_off, damaged, decoding, open_binary

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_LZW = 5
_LARGE_TILE = 2**24  # bytes; a small image may lie in a tile of many times its size


@contextmanager
def tiff_pages(path: Path) -> Iterator[list[Any]]:
    """The pages of a TIFF, those of a pyramid's lower levels left out.

    A page is checked by :func:`check_tiff` before its pixels are read. Whatever tifffile raises
    inside the block becomes a FlowsegError.
    """
    import tifffile

    with open_binary(path) as file, decoding(path), tifffile.TiffFile(file) as tiff:
        pages = [page for page in _listed(tiff, path) if not page.is_reduced]
        if not pages:
            raise damaged("it holds no page", path)
        if tiff.is_imagej and len(pages) == 1:  # ImageJ keeps a large stack behind one page
            _refuse_several(int((tiff.imagej_metadata or {}).get("images", 1)), path)
        yield pages


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
    room = max(4 * shape[0] * shape[1] * pixel, _LARGE_TILE)
    if math.prod(int(edge) for edge in page.chunks) * page.dtype.itemsize > room:
        raise damaged("its tiles are far larger than it is", path)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    size = path.stat().st_size
    if len(segments) < math.prod(page.chunked) or any(
        start <= 0 or count <= 0 or start + count > size for start, count in segments
    ):
        raise cut_off(path)


def read_tiff(path: Path) -> NDArray[Any]:
    """The pixels of a TIFF of one page: (H, W) or (H, W, C), values as stored."""
    with tiff_page(path) as page:
        if page.compression == _LZW:  # tifffile wants imagecodecs, and LIVECell is LZW
            image = _read_with_pillow(path)
            as_stored = page.photometric in (1, 2) and page.tags.valueof("Orientation", 1) == 1
            if as_stored and (image.shape, image.dtype) == (page.shape, page.dtype):
                return image
        return read_tiff_page(page, path)


def _read_with_pillow(path: Path) -> NDArray[Any]:
    from PIL.TiffImagePlugin import TiffImageFile

    with open_binary(path) as file:
        return native(np.array(TiffImageFile(file)))


def read_tiff_page(page: Any, path: Path) -> NDArray[Any]:
    """The pixels of a checked page: (H, W) or (H, W, C), values as stored."""
    with needs_codec(page, path):
        image = page.asarray()
    return native(np.moveaxis(image, 0, -1) if page.axes == "SYX" else image)


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
