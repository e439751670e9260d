"""Temporary files: their names tell who writes them, so that what a killed writer left goes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from functools import cache
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

__all__ = ["discard", "is_part", "part_of", "sweep"]

_PART = ".part-"
_STALE = 86_400  # seconds after which the temporary file of another machine counts as left


def part_of(path: Path) -> Path:
    """A temporary name beside `path` that no other writer takes; it ends with that of `path`."""
    own = f"{_machine()}-{os.getpid()}-{uuid4().hex[:8]}"
    return path.with_name(f"{_PART}{own}-{path.name[-100:]}")


def is_part(name: str) -> bool:
    """Whether a file's name is a temporary one, as a killed process leaves it.

    Examples
    --------
    >>> is_part(".part-0123456789ab-labels.tif"), is_part("labels.tif")
    (True, False)
    """
    return name.startswith(_PART)


_swept: set[Path] = set()


def sweep(folder: Path) -> None:
    """Remove, once in each folder, the temporary files of writers that have died.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    if folder not in _swept:
        _swept.add(folder)
        for path in folder.iterdir():
            if is_part(path.name) and _is_left(path):
                discard(path)


def discard(path: Path) -> None:
    """Remove a temporary file or folder, if it is there."""
    try:
        if path.is_dir() and not path.is_symlink():  # a Zarr array
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:  # the folder itself is gone or no folder: so is the file
        return


def _is_left(part: Path) -> bool:
    """Whether its writer has died: here the process is looked for, elsewhere its age tells."""
    found = re.match(rf"{re.escape(_PART)}([0-9a-f]+)-([0-9]+)-", part.name)
    try:
        if found and found[1] == _machine() and os.name == "posix":
            os.kill(int(found[2]), 0)  # asks whether the process is there, and does nothing
            return False
        return time.time() - part.stat().st_mtime > _STALE
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's process, or a file that is gone
        return False


@cache
def _machine() -> str:
    """Tells apart machines, and the containers on them, whose processes share numbers."""
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        space = 0
    return sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]
