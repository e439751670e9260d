"""What a run has finished, on disk, so that the same run started again need not do it again.

One line of JSON for each image: its id, the size and time of its file, and its row texts. A line
that was cut off by the end of the run does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowseg._version import __version__
from flowseg.errors import FlowsegError
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.paths import PathLike

__all__ = ["Journal", "run_key"]

_BLOCK = 2**20


class Journal:
    """The finished images of one run.

    Parameters
    ----------
    submission : path
        The CSV that the run will write; the journal lies beside it in a folder of its own.
    key : str
        From :func:`run_key`; a run with other models or settings finds nothing here.
    """

    def __init__(self, submission: PathLike, key: str) -> None:
        submission = Path(submission)
        self.folder = ensure_writable_folder(submission.with_name(f"{submission.name}.journal"))
        self.path = self.folder / f"{key}.jsonl"
        self._places: dict[str, tuple[int, tuple[int, int]]] = {}
        self._file = self.path.open("a+b")
        self._file.seek(0)
        end = 0
        for line in iter(self._file.readline, b""):
            entry = _entry(line)
            if entry is None:
                break
            self._places[entry["id"]] = (end, tuple(entry["file"]))
            end += len(line)
        self._file.truncate(end)

    def __len__(self) -> int:
        return len(self._places)

    def holds(self, image_id: str, path: Path) -> bool:
        """Whether the image is finished, and its file is as it was."""
        return image_id in self._places and self._places[image_id][1] == _stamp(path)

    def add(self, image_id: str, path: Path, texts: Sequence[str]) -> None:
        """Keep the row texts of a finished image."""
        stamp = _stamp(path)
        self._places[image_id] = (self._file.seek(0, 2), stamp)
        line = json.dumps({"id": image_id, "file": stamp, "texts": list(texts)})
        try:
            self._file.write(line.encode() + b"\n")
            # Out of this process: it may be killed, the machine may not.
            self._file.flush()
        except OSError as error:
            del self._places[image_id]
            raise FlowsegError(
                f"cannot be written: {error.strerror}",
                file=self.path,
                remedy="make room there and start again: what is finished is kept",
            ) from error

    def texts(self, image_id: str) -> list[str]:
        """The row texts of a finished image."""
        self._file.seek(self._places[image_id][0])
        return list(json.loads(self._file.readline())["texts"])

    def leave(self) -> None:
        """Leave the journal for a later run, unless it is empty."""
        with suppress(OSError):  # of a full disk, which has been told
            self._file.close()
        if not self._places:
            self.remove()

    def remove(self) -> None:
        """Remove the journal; nothing is left to do."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: other shards are at work; gone: another removed it
            self.folder.rmdir()


def run_key(models: Sequence[PathLike], settings: Mapping[str, Any]) -> str:
    """A name that no run with other weights or other settings has.

    Parameters
    ----------
    models : sequence of path
        Checkpoints; their content counts, not their names.
    settings : mapping
        Plain values.
    """
    digest = hashlib.sha256(json.dumps([__version__, settings], sort_keys=True).encode())
    for model in models:
        with Path(model).open("rb") as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                digest.update(block)
    return digest.hexdigest()[:16]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        name, (size, changed), texts = entry["id"], entry["file"], entry["texts"]
        known = type(size) is type(changed) is int and isinstance(name, str)
        known = known and isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return entry if line.endswith(b"\n") and known else None


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
