"""Atomic writes: under a temporary name first, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from flowseg.errors import FlowsegError
from flowseg.io.paths import PathLike

_PART = ".part-"


@contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """A temporary path in the folder of `path`; what is written there replaces `path` at the end.

    A reader sees the old file or the whole new one, and so does whoever starts after a crash or
    a power cut. When the block fails nothing is left behind and `path` is as it was; a killed
    process leaves a hidden file (:func:`is_part`). The temporary name ends with that of `path`.

    Raises
    ------
    FlowsegError
        If the file cannot be written: no such folder, no permission, disk full.
    """
    path = Path(path)
    with _beside(path) as part:
        yield part
        _flush(part)
        part.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a folder that the block makes.

    Unlike a file, an older folder has to go first: a crash at that moment leaves none.
    """
    with _beside(path) as part:
        yield part
        if path.exists():
            shutil.rmtree(path)
        part.replace(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, of which nothing is left at the end."""
    # of a name that no other writer takes
    part = path.with_name(f"{_PART}{uuid4().hex[:12]}-{path.name[-100:]}")
    try:
        yield part
    except OSError as error:
        raise FlowsegError(
            f"cannot be written: {error.strerror or error}",
            file=path,
            remedy="choose another place or make room there",
        ) from error
    finally:
        discard(part)


def is_part(name: str) -> bool:
    """Whether a file's name is a temporary one, as a killed process leaves it.

    Examples
    --------
    >>> is_part(".part-0123456789ab-labels.tif"), is_part("labels.tif")
    (True, False)
    """
    return name.startswith(_PART)


def discard(path: Path) -> None:
    """Remove a temporary file or folder, if it is there."""
    try:
        if path.is_dir() and not path.is_symlink():  # a Zarr array
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:  # the folder itself is gone or no folder: so is the file
        return


def _flush(path: Path) -> None:
    """Wait until the file is on the disk, so that a power cut cannot leave an empty one."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has, atomically."""
    with atomic_path(path) as part:
        part.write_bytes(text.encode())


def ensure_writable_folder(path: PathLike) -> Path:
    """Make the folder if it is not there, and try to write in it before work starts."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path, prefix=_PART):
            pass
    except FileExistsError as error:
        raise FlowsegError(
            "is a file, but a folder is needed there", file=path, remedy="choose another name"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FlowsegError(
            f"cannot be written to: {reason}", file=path, remedy="choose another folder"
        ) from error
    return path


def ensure_writable_file(path: PathLike) -> Path:
    """Refuse a path that is a folder, or in one that cannot be written to, before work starts."""
    path = Path(path)
    ensure_writable_folder(path.parent)
    if path.is_dir():
        raise FlowsegError("is a folder", file=path, remedy="name a file")
    return path
