"""Notes of a reader: what it left out or changed, said in one line of the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

_SHOWN = 5

_log = logging.getLogger(__name__)


class Note(NamedTuple):
    """What a reader did with some items of its data."""

    text: str
    """Such as "images are left out: annotated incompletely"."""
    names: tuple[str, ...]
    """The items, in order; their number is put in front of the text."""
    remedy: str = ""
    """How to have it otherwise; blank where there is no way."""

    def __str__(self) -> str:
        """One line, the first names in brackets."""
        shown = ", ".join(self.names[:_SHOWN]) + (", ..." if len(self.names) > _SHOWN else "")
        line = f"{len(self.names)} {self.text} ({shown})"
        return f"{line}; {self.remedy}" if self.remedy else line


Notify = Callable[[Note], None]
"""Takes a reader's notes, one after the other."""


def log_note(note: Note) -> None:
    """Write a note to the log, as a warning."""
    _log.warning("%s", note)
