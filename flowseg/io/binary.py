"""Binary image files: opened, checked for size before memory is taken, and refused in one line."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flowseg.errors import FlowsegError, out_of_memory

MAX_PIXELS = 2**29
"""Largest image read at once: 23,170 x 23,170 pixels."""

AGAIN = "copy or download it again"

# Pillow warns and tifffile logs of what is odd in a file, which would reach stderr.
warnings.filterwarnings("ignore", module=r"PIL\.\w+ImagePlugin")
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_MAX_RATIO = 2500  # no codec read here packs more bytes into one (zlib: 1032)


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read; what the system refuses becomes a FlowsegError."""
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise FlowsegError(missing(path), file=path) from error
    except IsADirectoryError as error:
        raise FlowsegError("is a folder, not a file", file=path) from error
    except (OSError, ValueError) as error:
        raise FlowsegError(f"cannot be read: {error}", file=path) from error


def missing(path: Path) -> str:
    """What is wrong with a file that is not there: it itself, or what a link points to."""
    if not path.is_symlink():
        return "is missing"
    return f"is a link to a file that is not there: {os.path.realpath(path)}"


def check_size(
    shape: tuple[int, int], path: Path, pixel_bytes: int = 1, limit: int = MAX_PIXELS
) -> None:
    """Refuse an image whose header claims more pixels than `limit`, or than its file can hold."""
    height, width = shape
    if height < 1 or width < 1:
        raise FlowsegError(f"claims a size of {width} x {height} pixels", file=path)
    if height * width > limit:
        raise FlowsegError(
            f"claims {width} x {height} pixels, more than the {limit:,} read at once",
            file=path,
            remedy="cut it into smaller images",
        )
    size = path.stat().st_size
    if height * width * pixel_bytes > _MAX_RATIO * size:
        raise FlowsegError(
            f"claims {width} x {height} pixels but is only {size} bytes long",
            file=path,
            remedy=AGAIN,
        )


def cut_off(path: Path) -> FlowsegError:
    """The error for a file that ends too early."""
    return FlowsegError("is cut off: the end of the image is missing", file=path, remedy=AGAIN)


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """What a decoder raises, of any class, becomes a FlowsegError: the file is damaged."""
    try:
        yield
    except FlowsegError:
        raise
    except Exception as error:  # a damaged file fails anywhere in a library, with any exception
        problem = cut_off(path) if "truncated" in str(error).lower() else damaged(error, path)
        raise out_of_memory(error, path) or problem from error


def damaged(reason: object, path: Path) -> FlowsegError:
    """The error for a file whose content contradicts itself or its checksum."""
    return FlowsegError(f"is damaged: {reason}", file=path, remedy=AGAIN)
