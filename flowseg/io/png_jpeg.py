"""PNG and JPEG: read and checked by Pillow; by OpenCV where Pillow would keep 8 of 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowseg.errors import FlowsegError
from flowseg.io.binary import check_size, damaged, decoding, open_binary
from flowseg.io.opencv import load_cv2

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"


def picture_shape(path: Path) -> tuple[int, int]:
    """Height and width of a PNG or JPEG, from its header, where the file can hold so much."""
    with _opened(path) as image:
        width, height = image.size
    check_size((height, width), path)
    return height, width


def read_picture(path: Path) -> NDArray[Any]:
    """The pixels of a PNG or JPEG that is complete and whose checksums are right."""
    picture_shape(path)
    with _opened(path) as image:
        image.verify()
    with _opened(path) as image:
        keeps_8_of_16_bits = image.mode != "I;16" and ";16" in str(image.tile[0][3])
        image.load()
        if keeps_8_of_16_bits:
            return _read_with_opencv(path)
        transparent = "transparency" in image.info
        colour = "RGBA" if transparent else "RGB"
        mode = {"1": "L", "LA": "RGBA", "P": colour, "RGB": colour}.get(image.mode, image.mode)
        if mode not in ("L", "I;16", "RGB", "RGBA"):
            raise FlowsegError(
                f"has colours of the kind {mode}", file=path, remedy="save it as grey or RGB"
            )
        return np.array(image if mode == image.mode else image.convert(mode))


def read_indices(path: Path) -> NDArray[Any]:
    """As `read_picture`; of a PNG with a palette of colours its indices. A JPEG is refused."""
    with _opened(path) as image:
        if image.format == "JPEG":
            raise FlowsegError(
                "is a JPEG, which does not keep the numbers of labels",
                file=path,
                remedy="save labels as PNG or TIFF",
            )
        if image.mode != "P":
            return read_picture(path)
    colours = read_picture(path)
    with _opened(path) as image:
        indices = np.array(image)
    used, first = np.unique(indices, return_index=True)
    shown = colours.reshape(-1, colours.shape[2])[first, :3]
    grey = (shown == shown[:, :1]).all() and len(np.unique(shown[:, 0])) == len(used)
    return np.ascontiguousarray(colours[..., 0]) if grey else indices


def _read_with_opencv(path: Path) -> NDArray[Any]:
    """A PNG of 16-bit colours, known to be complete."""
    cv2 = load_cv2()
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:  # OpenCV does not tell why
        raise damaged("or there is too little memory to unpack it", path)
    order = [2, 1, 0, *range(3, image.shape[2])]  # OpenCV keeps blue first
    return np.ascontiguousarray(image[..., order])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The image of a file, of which nothing but the header is read.

    Not by `Image.open`, which warns of sizes that are allowed here, and refuses others.
    """
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    with open_binary(path) as file, decoding(path):
        is_png = file.read(len(PNG)) == PNG
        file.seek(0)
        yield PngImageFile(file) if is_png else JpegImageFile(file)
