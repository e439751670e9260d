"""PNG and JPEG pictures, and what every image file is checked for before memory is taken.

OpenCV returns a picture with a grey or black rest for a file that ends too early, so a file is
checked for completeness first.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from flowseg.errors import FlowsegError, out_of_memory
from flowseg.io.opencv import load_cv2

__all__ = [
    "AGAIN",
    "JPEG",
    "MAX_PIXELS",
    "PNG",
    "check_size",
    "cut_off",
    "damaged",
    "jpeg_shape",
    "open_binary",
    "picture_shape",
    "read_picture",
    "size_of",
    "unpack",
]

MAX_PIXELS = 2**29
"""Largest image read at once: 23,170 x 23,170 pixels."""

AGAIN = "copy or download it again"
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

_MAX_RATIO = 2500  # no codec read here packs more bytes into one (zlib: 1032)
_MAX_FILE = 2**32  # bytes of a PNG or JPEG; the largest allowed image needs less even unpacked
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SKIPPED = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE})
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # nothing belongs to these markers
_MAX_MARKERS = 2**11  # before the size; a profile of colours takes up to 255


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise FlowsegError("is missing", file=path) from error
    except IsADirectoryError as error:
        raise FlowsegError("is a folder, not a file", file=path) from error
    except (OSError, ValueError) as error:
        raise FlowsegError(f"cannot be read: {error}", file=path) from error


def size_of(file: IO[bytes]) -> int:
    """Bytes of the file, which then stands at its end."""
    return file.seek(0, os.SEEK_END)


def check_size(
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
    if height * width * pixel_bytes > _MAX_RATIO * size_of(file):
        raise FlowsegError(
            f"claims {width} x {height} pixels but is only {size_of(file)} bytes long",
            file=path,
            remedy=AGAIN,
        )


def cut_off(path: Path) -> FlowsegError:
    return FlowsegError("is cut off: the end of the image is missing", file=path, remedy=AGAIN)


def damaged(error: Exception, path: Path, problem: str | None = None) -> FlowsegError:
    """What a decoder's error means: the file is damaged, unless memory ran out."""
    problem = f"is damaged: {error}" if problem is None else problem
    return out_of_memory(error, path) or FlowsegError(problem, file=path, remedy=AGAIN)


def picture_shape(file: IO[bytes], path: Path) -> tuple[int, int]:
    """Height and width of a PNG or JPEG, from its header, where the file can hold so much."""
    if size_of(file) > _MAX_FILE:
        raise FlowsegError("is too large a file for one image", file=path)
    file.seek(0)
    is_png = file.read(len(PNG)) == PNG
    file.seek(0)
    shape = _png_shape(file, path) if is_png else jpeg_shape(file, path)
    check_size(shape, file, path)
    return shape


def read_picture(file: IO[bytes], path: Path) -> npt.NDArray[Any]:
    """The pixels of a PNG or JPEG that is complete."""
    shape = picture_shape(file, path)
    file.seek(0)
    data = file.read()
    if data.startswith(PNG):
        _check_png(data, path)
    else:
        _check_jpeg(data, path)
    image = unpack(data, path)
    if image.shape[:2] != shape:
        raise FlowsegError("is damaged: its header gives another size", file=path, remedy=AGAIN)
    return image


def jpeg_shape(file: IO[bytes], path: Path) -> tuple[int, int]:
    """Height and width of the JPEG that begins where the file stands.

    Markers are walked as libjpeg does, and those refused that it refuses: where the ways part, a
    file can show one size here and another there.
    """
    file.seek(2, os.SEEK_CUR)
    for _ in range(_MAX_MARKERS):
        head = file.read(2)
        if len(head) < 2:
            raise cut_off(path)
        if head[0] != 0xFF:
            break
        if head[1] == 0xFF:  # padding
            file.seek(-1, os.SEEK_CUR)
        elif head[1] in _JPEG_SIZES | _JPEG_SKIPPED:
            body = file.read(7)
            if len(body) < 7:
                raise cut_off(path)
            length, _, height, width = struct.unpack(">HBHH", body)
            if head[1] in _JPEG_SIZES:
                return height, width
            if length < 2:
                break
            file.seek(length - len(body), os.SEEK_CUR)
        elif head[1] not in _JPEG_BARE:
            break
    raise FlowsegError("is damaged: it has no JPEG header", file=path, remedy=AGAIN)


def unpack(data: bytes, path: Path) -> npt.NDArray[Any]:
    """The pixels of a whole file, of any kind that OpenCV knows."""
    cv2 = load_cv2()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise damaged(error, path, "is damaged") from error
    if image is None:  # OpenCV does not tell which
        raise FlowsegError(
            "is damaged, or there is too little memory to unpack it",
            file=path,
            remedy=f"free memory, or {AGAIN}",
        )
    if image.ndim == 3 and image.shape[2] >= 3:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]  # OpenCV keeps blue first
    return np.ascontiguousarray(image)


def _png_shape(file: IO[bytes], path: Path) -> tuple[int, int]:
    file.seek(8, os.SEEK_CUR)
    head = file.read(16)
    if len(head) < 16:
        raise cut_off(path)
    if head[4:8] != b"IHDR":
        raise FlowsegError("is damaged: it has no PNG header", file=path, remedy=AGAIN)
    width, height = struct.unpack(">II", head[8:])
    return height, width


def _check_png(data: bytes, path: Path) -> None:
    """Walk the chunks to IEND; each one complete and with the right checksum."""
    position, view = 8, memoryview(data)
    while True:
        if position + 12 > len(data):
            raise cut_off(path)
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            raise cut_off(path)
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise FlowsegError("is damaged: a checksum is wrong", file=path, remedy=AGAIN)
        if data[position + 4 : position + 8] == b"IEND":
            return
        position = end


def _check_jpeg(data: bytes, path: Path) -> None:
    """The end marker stands after the start of the scan (a thumbnail may bring its own)."""
    if data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda"):
        raise cut_off(path)
