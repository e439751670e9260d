"""Outputs are claimed before work starts: none is an input, another output, or another process's.

Files are written under a temporary name and renamed, so that what would be lost is the name in its
folder; other hard links of an input stay as they are.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.paths import IMAGE_SUFFIXES, PathLike

_CLAIM = ".writing-"
_Inode = tuple[int, int]
_Key = tuple[_Inode | str, ...]

_log = logging.getLogger(__name__)


@contextmanager
def claim_outputs(outputs: Iterable[PathLike], inputs: Iterable[PathLike] = ()) -> Iterator[None]:
    """Claim the files that a command writes, until the block ends.

    Links, and names that differ in case where the file system does not tell them apart, count as
    the files they mean. While the block runs each folder of outputs holds a hidden list of their
    names; that of a process that was killed does not count, and is removed.

    Parameters
    ----------
    outputs : iterable of path
        Files, or folders that are replaced as a whole. Their own folders are made.
    inputs : iterable of path
        Files that are read; folders that are one image or label image.

    Raises
    ------
    FlowsegError
        If an output is an input, lies in one or holds one, if two outputs are one file, or another
        living process writes it.
    """
    _folder_key.cache_clear()
    _chain.cache_clear()
    by_key: dict[_Key, Path] = {}
    for output in map(Path, outputs):
        other = by_key.setdefault(_key(output), output)
        if other is not output:
            same = "" if str(other) == str(output) else f" (it is {other})"
            raise FlowsegError(
                f"would be written twice{same}: two outputs have this name",
                file=output,
                remedy="give each output a file or folder of its own",
            )
    replaced = {found for path in by_key.values() if (found := _inode(path)) and path.is_dir()}
    read: set[_Inode] = set()
    for source in map(Path, inputs):
        lost = by_key.get(_key(source)) or (replaced & _chain(str(source.parent)) and source)
        if lost:
            raise _is_input(lost)
        if source.is_dir() and (found := _inode(source)):
            read.add(found)
    folders: dict[Path, list[str]] = {}
    for key, path in by_key.items():
        if read and read & _chain(str(path.parent)):
            raise _is_input(path)
        folders.setdefault(path.parent, []).append(str(key[-1]))
    with ExitStack() as stack:
        for folder, names in folders.items():
            stack.enter_context(_claim(ensure_writable_folder(folder), names))
        yield


def input_files(*paths: PathLike, tables: bool = False) -> Iterator[Path]:
    """The files of `paths` that count as inputs: of a folder all images and label files below it.

    With `tables` those of CSV and JSON, too, in which a data set keeps its annotations.
    """
    endings = (*IMAGE_SUFFIXES, ".npy", *((".csv", ".gz", ".json") if tables else ()))
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        for folder, _, names in os.walk(path):
            yield from (Path(folder, n) for n in names if n.lower().endswith(endings))


@contextmanager
def exclusive_lock(path: Path, taken: FlowsegError, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; the system frees it however the process ends.

    Raises
    ------
    FlowsegError
        `taken`, if another process holds it and `wait` is false.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if not wait:
            raise taken from error
        _log.info("%s: %s; waiting until it ends", taken.file, taken.problem)
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # a file system without locks
        _log.warning("%s cannot be locked (%s): let no other process write there", path, error)
    try:
        yield
    finally:
        lock.release()


def _is_input(path: Path) -> FlowsegError:
    return FlowsegError(
        "is an input, which this command would write over",
        file=path,
        remedy="write to another file or folder",
    )


@contextmanager
def _claim(folder: Path, names: list[str]) -> Iterator[None]:
    """A hidden list of the names that this process writes in a folder, and a lock that it lives."""
    claim = folder / f"{_CLAIM}{uuid4().hex[:12]}"
    taken = FlowsegError("another process claims its outputs in it", file=folder)
    lists = claim.with_suffix(".json"), claim.with_suffix(".lock")
    with ExitStack() as stack:
        stack.callback(_remove, *lists)
        stack.enter_context(exclusive_lock(lists[1], taken))
        # Written before the others are read: of two that start at once one sees the other.
        lists[0].write_text(json.dumps(names), encoding="utf-8")
        mine = set(names)
        for other in folder.glob(f"{_CLAIM}*.json"):
            if other == lists[0] or not _is_alive(other):
                continue
            with suppress(OSError, ValueError):  # removed, or just being written
                if common := mine.intersection(json.loads(other.read_bytes())):
                    raise FlowsegError(
                        "is being written by another process",
                        file=folder / min(common),
                        remedy="wait until it ends, or write to another file or folder",
                    )
        yield


def _is_alive(claim: Path) -> bool:
    """Whether the process of a claim runs; what another one left is removed."""
    lock = FileLock(claim.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    _remove(claim, claim.with_suffix(".lock"))
    return False


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _key(path: Path) -> _Key:
    """What is equal for two paths that are one file, whether it is there yet or not."""
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    folder, folds = _folder_key(str(path.parent))
    name = unicodedata.normalize("NFC", path.name).casefold() if folds else path.name
    return (*folder, name)


@lru_cache(maxsize=4096)
def _folder_key(folder: str) -> tuple[_Key, bool]:
    """The nearest folder that exists, the names below it, and whether case counts there."""
    real, below = os.path.realpath(folder), list[str]()
    while (found := _inode(Path(real))) is None and os.path.dirname(real) != real:  # noqa: PTH120
        real, name = os.path.split(real)
        below.insert(0, name)
    head, tail = os.path.split(real)
    folds = sys.platform in ("win32", "darwin") or (
        tail != tail.swapcase() and _inode(Path(head, tail.swapcase())) == found
    )
    names = [unicodedata.normalize("NFC", name).casefold() if folds else name for name in below]
    return (found or (0, 0), *names), folds


@lru_cache(maxsize=4096)
def _chain(folder: str) -> frozenset[_Inode]:
    """A folder and those around it."""
    real = Path(os.path.realpath(folder))
    return frozenset(found for path in (real, *real.parents) if (found := _inode(path)))


def _inode(path: Path) -> _Inode | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
