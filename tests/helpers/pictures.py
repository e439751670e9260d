"""Pictures for the tests, and what every error line about a file has to be."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.io.opencv import load_cv2

__all__ = ["chunk", "one_line", "png", "write_lzw"]

cv2 = load_cv2()


def one_line(error: pytest.ExceptionInfo[FlowsegError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path).replace("\0", "\\x00") in text
    return text


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, body: bytes | None = None) -> bytes:
    """An 8-bit grey PNG that claims a size."""
    if body is None:
        body = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def write_lzw(path: Path, image: np.ndarray) -> None:
    """As LIVECell's images are; OpenCV packs so without another package."""
    options = (259, 5, 278, 8)  # by the numbers of the tags: OpenCV 4.8 names only the first
    stored = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    path.write_bytes(cv2.imencode(".tif", stored, options)[1].tobytes())
