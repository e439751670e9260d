"""Streaming JSON: a file of any size item by item, in the memory of one item.

The training annotations of LIVECell are one JSON document of 850 MB, which `json.load` turns into
several gigabytes of objects. Its large members are lists (or dicts) of small items, so this module
scans the outer structure and decodes only the items with the `json` module, one by one. Unlike
ijson it tells the byte range of each item, so that an item can be read again from the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import IO, Any, NamedTuple

LIST = ""
"""The member that stands for a document that is itself a list."""

_CHUNK = 2**20
_MAX_ITEM = 2**26
_AHEAD = 32  # more characters than a literal, an escape or the cut part of a number has
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Item(NamedTuple):
    """One item of a member of the document's top level."""

    member: str
    start: int
    """Offset of the item's first byte in the file."""
    end: int
    """Offset of the byte after its last."""
    value: Any
    """The item; its text is decoded as Latin-1, so text beyond ASCII must be read again."""


def scan_items(
    file: IO[bytes],
    members: Collection[str],
    progress: Callable[[int], object],
    required: Collection[str] = (),
) -> Iterator[Item]:
    """Iterate over the items of some members of a JSON object, in the order of the file.

    Parameters
    ----------
    file : binary file
        Holds one JSON object; or a list, which is scanned as the member `LIST`.
    members : collection of str
        The members to scan, lists or dicts; other members are checked and skipped.
    progress : callable
        Called with the number of bytes of each block that was read.
    required : collection of str
        Those of the members that must be there.

    Yields
    ------
    Item
        Of a dict the values, without their keys.

    Raises
    ------
    ValueError
        If the file is no JSON object, lacks a member, is cut off, is nested too deeply, or has an
        item of more than 64 MB.
    """
    scanner = _Scanner(file, progress)
    missing = {*required}
    if LIST in members and scanner.peek() == "[":
        missing.discard(LIST)
        for start, end, value in _items(scanner):
            yield Item(LIST, start, end, value)
    elif scanner.take("{") and scanner.peek() != "}":
        while True:
            name = scanner.value()[2]
            if not isinstance(name, str):
                raise scanner.damaged()
            missing.discard(name)
            scanner.take(":")
            if name in members:
                for start, end, value in _items(scanner):
                    yield Item(name, start, end, value)
            else:
                scanner.value()
            if scanner.take(",}") == "}":
                break
    else:
        scanner.take("}")
    if scanner.peek():
        raise scanner.damaged()
    if missing:
        raise ValueError(f"has no {min(missing)!r}")


def _items(scanner: _Scanner) -> Iterator[tuple[int, int, Any]]:
    opening = scanner.take("[{")
    closing = "]" if opening == "[" else "}"
    if scanner.peek() == closing:
        scanner.take(closing)
        return
    while True:
        if opening == "{":
            scanner.value()
            scanner.take(":")
        yield scanner.value()
        if scanner.take("," + closing) == closing:
            return


class _Scanner:
    """A window that moves over the file; in Latin-1 a character is a byte."""

    def __init__(self, file: IO[bytes], progress: Callable[[int], object]) -> None:
        self._file = file
        self._progress = progress
        self._text = ""
        self._index = 0  # in the window
        self._offset = 0  # of the window, in the file
        if self._fill() and self._text.startswith("\xef\xbb\xbf"):
            self._index = 3

    def damaged(self) -> ValueError:
        return ValueError(f"is not complete, valid JSON (near byte {self._offset + self._index})")

    def peek(self) -> str:
        """The next character that is no white space; blank at the end."""
        while True:
            space = _SPACE.match(self._text, self._index)
            self._index = space.end() if space else self._index
            if self._index < len(self._text):
                return self._text[self._index]
            if not self._fill():
                return ""

    def take(self, allowed: str) -> str:
        found = self.peek()
        if not found or found not in allowed:
            raise self.damaged()
        self._index += 1
        return found

    def value(self) -> tuple[int, int, Any]:
        """The next value with its first byte and the byte after its last."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._index)
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
            start, self._index = self._index, end
            return self._offset + start, self._offset + end, value

    def _fill(self) -> bool:
        rest = self._text[self._index :]
        if len(rest) > _MAX_ITEM:
            raise ValueError(f"has an item of more than {_MAX_ITEM:,} bytes")
        block = self._file.read(max(_CHUNK, len(rest)))
        if not block:
            return False
        self._progress(len(block))
        self._text = rest + block.decode("latin-1")
        self._offset += self._index
        self._index = 0
        return True
