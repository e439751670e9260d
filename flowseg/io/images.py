"""Image files: PNG, JPEG and TIFF are read, PNG and TIFF written.

A file is known by its first bytes, not by its suffix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flowseg.arrays.labels import as_labels, check_labels
from flowseg.errors import FlowsegError
from flowseg.io.atomic import atomic_path
from flowseg.io.binary import AGAIN, open_binary
from flowseg.io.opencv import load_cv2
from flowseg.io.paths import PathLike
from flowseg.io.physical import PixelSize
from flowseg.io.png_jpeg import JPEG, PNG, picture_shape, read_indices, read_picture
from flowseg.io.tiff import TIFF, read_tiff, tiff_page


def read_image(path: PathLike) -> npt.NDArray[Any]:
    """Read one image, values as stored.

    Parameters
    ----------
    path : path
        A PNG, JPEG or TIFF file of one image. EXIF orientation is ignored.

    Returns
    -------
    ndarray, (H, W) or (H, W, C)
        Grey, or colour in the order red, green, blue, alpha; dtype as stored. A palette gives its
        colours (but ImageJ's, which only display), and where white is 0 values are inverted.

    Raises
    ------
    FlowsegError
        If the file is missing, empty, cut off, damaged, no image, larger than `MAX_PIXELS`, a
        CMYK JPEG, or a TIFF of several pages or of several channels that are no colours.
    """
    path = Path(path)
    return read_tiff(path) if is_tiff(path) else read_picture(path)


def image_shape(path: PathLike) -> tuple[int, int]:
    """Height and width of an image in pixels, from its header alone."""
    path = Path(path)
    if not is_tiff(path):
        return picture_shape(path)
    with tiff_page(path) as page:
        return int(page.imagelength), int(page.imagewidth)


def is_tiff(path: Path) -> bool:
    """Whether the file's first bytes are those of a TIFF; refuses all but TIFF, PNG and JPEG."""
    with open_binary(path) as file:
        start = file.read(len(PNG))
    if not start:
        raise FlowsegError("is empty", file=path, remedy=AGAIN)
    if not start.startswith((PNG, JPEG, *TIFF)):
        raise FlowsegError("is no PNG, JPEG or TIFF image", file=path)
    return start.startswith(TIFF)


def read_labels(path: PathLike) -> npt.NDArray[np.int32]:
    """Read a label image, (H, W) int32, 0 = background, from a PNG or TIFF.

    Of a PNG with a palette of colours the indices are the labels; see also
    :func:`flowseg.arrays.labels.as_labels`.

    Raises
    ------
    FlowsegError
        As `read_image`; also if it is a JPEG or a colour image, holds fractions or negative values,
        or an id beyond int32.
    """
    path = Path(path)
    try:
        return as_labels(read_tiff(path, as_stored=True) if is_tiff(path) else read_indices(path))
    except FlowsegError as error:
        raise error.at(path) from error


def write_image(path: PathLike, image: npt.NDArray[Any]) -> None:
    """Write an image as PNG or TIFF, by the suffix of `path`, without loss and atomically.

    Parameters
    ----------
    path : path
        Ends in .png, .tif or .tiff.
    image : ndarray, (H, W) or (H, W, 3)
        uint8 or uint16, grey or red, green, blue.
    """
    path, image = Path(path), np.asarray(image)
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype not in (np.uint8, np.uint16) or not (image.ndim == 2 or colour):
        raise FlowsegError(
            f"cannot hold an array of shape {image.shape} and type {image.dtype}",
            file=path,
            remedy="give (H, W) or (H, W, 3) of uint8 or uint16",
        )
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        _write_tiff(path, image)
    elif suffix == ".png":
        done, data = load_cv2().imencode(".png", image[..., ::-1] if colour else image)
        if not done:  # OpenCV does not tell which
            raise FlowsegError(
                "cannot be packed: it is too large for a PNG, or there is too little memory",
                file=path,
                remedy="name it .tif, or free memory",
            )
        with atomic_path(path) as part:
            part.write_bytes(data.tobytes())
    else:
        raise FlowsegError(
            f"ends in {suffix or 'no suffix'!r}", file=path, remedy="name it .png or .tif"
        )


def write_labels(
    path: PathLike, labels: npt.NDArray[np.integer[Any]], pixel_size: PixelSize | None = None
) -> None:
    """Write a label image as compressed TIFF: uint16, or uint32 where ids exceed 65,535.

    The same labels give the same bytes.
    """
    labels = check_labels(labels)
    wide = labels.size > 0 and int(labels.max()) > np.iinfo(np.uint16).max
    _write_tiff(Path(path), labels.astype(np.uint32 if wide else np.uint16), pixel_size)


def _write_tiff(path: Path, image: npt.NDArray[Any], pixel_size: PixelSize | None = None) -> None:
    import tifffile

    with atomic_path(path) as part:
        tifffile.imwrite(
            part,
            image,
            photometric="rgb" if image.ndim == 3 else "minisblack",
            compression="zlib",
            metadata=None,
            software=False,
            **(pixel_size.tiff_tags() if pixel_size else {}),
        )
