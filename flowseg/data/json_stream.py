"""Walk a JSON file of any size item by item, in the memory of one item.

The training annotations of LIVECell are one JSON document of 850 MB, which `json.load` turns into
several gigabytes of objects. Its large members are lists (or dicts) of small items, so the
document's frame is walked here and only the items go through the `json` module, one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any, NamedTuple

__all__ = ["Item", "scan_items"]

_CHUNK = 2**20
_MAX_ITEM = 2**26
_AHEAD = 32  # more characters than a literal, an escape or the cut part of a number has
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Item(NamedTuple):
    """One item of a member of the document's top level."""

    member: str
    start: int
    """Where the item starts in the file, in bytes."""
    end: int
    value: Any
    """The item; its text is decoded as Latin-1, so text beyond ASCII must be read again."""


def scan_items(
    file: IO[bytes], members: Collection[str], progress: Callable[[int], object]
) -> Iterator[Item]:
    """The items of some members of a JSON object, in the order of the file.

    Parameters
    ----------
    file : binary file
        Holds one JSON object.
    members : collection of str
        The members to walk, lists or dicts; other members are checked and passed over.
    progress : callable
        Told the number of bytes of each block that was read.

    Yields
    ------
    Item
        Of a dict the values, without their keys.

    Raises
    ------
    ValueError
        If the file is no JSON object, is cut off, is nested too deeply, or has an item of more
        than 64 MB.
    """
    walk = _Walk(file, progress)
    walk.take("{")
    if walk.peek() != "}":
        while True:
            name = walk.value()[2]
            walk.take(":")
            if name in members:
                for start, end, value in _items(walk):
                    yield Item(name, start, end, value)
            else:
                walk.value()
            if walk.take(",}") == "}":
                break
    else:
        walk.take("}")
    if walk.peek():
        raise walk.damaged()


def _items(walk: _Walk) -> Iterator[tuple[int, int, Any]]:
    opened = walk.take("[{")
    close = "]" if opened == "[" else "}"
    if walk.peek() == close:
        walk.take(close)
        return
    while True:
        if opened == "{":
            walk.value()
            walk.take(":")
        yield walk.value()
        if walk.take("," + close) == close:
            return


class _Walk:
    """A window that moves over the file; Latin-1 keeps characters and bytes in step."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], object]) -> None:
        self._file = file
        self._progress = progress
        self._text = ""
        self._at = 0  # in the window
        self._base = 0  # of the window, in the file
        if self._fill() and self._text.startswith("\xef\xbb\xbf"):
            self._at = 3

    def damaged(self) -> ValueError:
        return ValueError(f"is not complete, valid JSON (near byte {self._base + self._at})")

    def peek(self) -> str:
        """The next character that is no white space; blank at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def take(self, allowed: str) -> str:
        found = self.peek()
        if not found or found not in allowed:
            raise self.damaged()
        self._at += 1
        return found

    def value(self) -> tuple[int, int, Any]:
        """The next value with its first byte and the byte after its last."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # a value that the window cuts fails at the window's end, or in an open string
                cut = error.pos > len(self._text) - _AHEAD or error.msg.startswith("Unterminated")
                if cut and self._fill():
                    continue
                raise self.damaged() from error
            except RecursionError as error:
                raise ValueError("is nested too deeply") from error
            if end > len(self._text) - _AHEAD and self._fill():
                continue  # the window may have cut a number: `0` of `0.5`
            start, self._at = self._at, end
            return self._base + start, self._base + end, value

    def _fill(self) -> bool:
        rest = self._text[self._at :]
        if len(rest) > _MAX_ITEM:
            raise ValueError(f"has an item of more than {_MAX_ITEM:,} bytes")
        block = self._file.read(max(_CHUNK, len(rest)))
        if not block:
            return False
        self._progress(len(block))
        self._text = rest + block.decode("latin-1")
        self._base += self._at
        self._at = 0
        return True
