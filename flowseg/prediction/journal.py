"""The journal of a prediction: its finished images, on disk, so that a stopped run can go on.

One line of JSON for each image: its id, the size and time of its file, and its part of each file
that holds all images, such as its rows of the CSV. A line that was cut off does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowseg._version import __version__
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.paths import PathLike, sha256_of


def journal_folder(submission: PathLike) -> Path:
    """Where the journals of a submission are."""
    path = Path(submission)
    return path.with_name(f"{path.name}.journal")


class Journal:
    """The finished images of one run, of the `run_key`, in a folder beside its submission."""

    def __init__(self, submission: PathLike, key: str) -> None:
        self.folder = ensure_writable_folder(journal_folder(submission))
        self.path = self.folder / f"{key}.jsonl"
        self._lines: dict[str, tuple[int, tuple[int, int]]] = {}
        self._file = self.path.open("a+b")
        self._file.seek(0)
        end = 0
        for line in iter(self._file.readline, b""):
            entry = _entry(line)
            if entry is None:
                break
            self._lines[entry["id"]] = (end, tuple(entry["file"]))
            end += len(line)
        self._file.truncate(end)

    def __len__(self) -> int:
        return len(self._lines)

    def holds(self, image_id: str, path: Path) -> bool:
        """Whether the image is finished, and its file has not changed since."""
        return image_id in self._lines and self._lines[image_id][1] == _stamp(path)

    def add(self, image_id: str, path: Path, parts: Mapping[str, Any]) -> None:
        """Store a finished image; `parts` are those of `Formats.write`."""
        stamp = _stamp(path)
        self._lines[image_id] = (self._file.seek(0, 2), stamp)
        line = json.dumps({"id": image_id, "file": stamp, "parts": parts})
        try:
            self._file.write(line.encode() + b"\n")
            # to the system: this process may be killed at any moment
            self._file.flush()
        except OSError as error:
            del self._lines[image_id]
            raise FlowsegError(
                f"cannot be written: {error.strerror}",
                file=self.path,
                remedy="make room there and start again: what is finished is kept",
            ) from error

    def parts(self, image_id: str) -> dict[str, Any]:
        """What was stored of a finished image."""
        self._file.seek(self._lines[image_id][0])
        return dict(json.loads(self._file.readline())["parts"])

    def leave(self) -> None:
        """Close the journal for a later run; an empty one is removed."""
        with suppress(OSError):  # of a full disk, which has been reported
            self._file.close()
        if not self._lines:
            self.remove()

    def remove(self) -> None:
        """Remove the journal: all is done."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: other shards are at work; gone: another removed it
            self.folder.rmdir()


def finished_since(submission: PathLike, start: float) -> Iterator[dict[str, Any]]:
    """The parts of the finished images in the journals that were written to since `start`.

    `start` is in seconds since the epoch; journals of earlier runs, maybe of other models, are
    passed over.
    """
    for path in sorted(journal_folder(submission).glob("*.jsonl")):
        if path.stat().st_mtime >= start:
            with path.open("rb") as lines:
                for line in lines:
                    entry = _entry(line)
                    if entry is None:
                        break
                    yield entry["parts"]


def run_key(models: Sequence[PathLike], settings: Mapping[str, Any]) -> str:
    """A digest of weights and settings (plain values): runs of one key have the same results.

    The bytes of the checkpoints count, not their names.
    """
    content = [__version__, settings, [sha256_of(model) for model in models]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        name, (size, changed), parts = entry["id"], entry["file"], entry["parts"]
        known = type(size) is type(changed) is int and isinstance(name, str)
        known = known and isinstance(parts, dict)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return entry if line.endswith(b"\n") and known else None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
