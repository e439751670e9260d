"""From the bytes of an image file to its pixels, with nothing taken on trust.

A file is known by its first bytes, not by its suffix: PNG and JPEG are decoded by OpenCV, TIFF by
tifffile.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy.typing as npt

from flowseg._picture import AGAIN, JPEG, PNG, opened, picture_shape, read_picture
from flowseg._tiff import TIFF, read_tiff, tiff_page
from flowseg.errors import FlowsegError

__all__ = ["image_shape", "is_tiff", "read_image"]


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
    with opened(path) as file:
        read = read_tiff if _kind(file, path) == "tiff" else read_picture
        return read(file, path)


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image in pixels, from its header alone.

    Raises
    ------
    FlowsegError
        As `read_image`, as far as the header tells.
    """
    path = Path(path)
    with opened(path) as file:
        if _kind(file, path) == "picture":
            return picture_shape(file, path)
        with tiff_page(file, path) as page:
            return int(page.imagelength), int(page.imagewidth)


def is_tiff(path: Path) -> bool:
    """Whether the file's first bytes are those of a TIFF."""
    with opened(path) as file:
        return _kind(file, path) == "tiff"


def _kind(file: IO[bytes], path: Path) -> str:
    start = file.read(8)
    if not start:
        raise FlowsegError("is empty", file=path, remedy=AGAIN)
    if start == PNG or start.startswith(JPEG):
        return "picture"
    if start.startswith(TIFF):
        return "tiff"
    raise FlowsegError("is no PNG, JPEG or TIFF image", file=path)
