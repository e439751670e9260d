"""Damage done to valid files, with and without knowledge of what is inside."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

SIZES = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 4096, 65_535, 65_536, 2**24, 2**29),
    *(10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 10**18, 2**63 - 1, 2**63, 2**64 - 1),
)
"""Numbers on which readers have stumbled."""

_NUMBERS = (*map(str, SIZES), "-1", "1e400", "-0", "0.5", "NaN", "Infinity", "9" * 400, "9" * 5000)
_TEXTS = (
    *("", " ", "\0", "\n", "\t", "a", "../a", "/etc/passwd", "C:\\a", "con", "<script>", "\x1b[2J"),
    *("ü", "\u202e", "\U0001f9e0", "\ud800", "\ufeff", "e\u0301", "x" * 300, "%s{0}", "nan", "1 1"),
)
_PNG_HEAD = 8


def damage(data: bytes, other: bytes, tokens: Sequence[bytes], random: Random) -> bytes:
    """`data` after one to six random changes; some splice in a part of `other`."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        random.choice(_CHANGES)(content, other, tokens, random)
    return bytes(content[: 2**20])


def _flip(content: bytearray, _: bytes, __: Sequence[bytes], random: Random) -> None:
    if content:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)


def _set(content: bytearray, _: bytes, __: Sequence[bytes], random: Random) -> None:
    if content:
        content[random.randrange(len(content))] = random.choice((0, 1, 127, 128, 255, 32, 34, 10))


def _cut_off(content: bytearray, _: bytes, __: Sequence[bytes], random: Random) -> None:
    del content[random.randrange(len(content) + 1) :]


def _remove(content: bytearray, _: bytes, __: Sequence[bytes], random: Random) -> None:
    start, end = _span(len(content), random)
    del content[start:end]


def _repeat(content: bytearray, _: bytes, __: Sequence[bytes], random: Random) -> None:
    start, end = _span(min(len(content), 4096), random)
    content[end:end] = content[start:end] * random.choice((1, 2, 10, 200))


def _insert(content: bytearray, _: bytes, tokens: Sequence[bytes], random: Random) -> None:
    if tokens:
        at = random.randrange(len(content) + 1)
        content[at : at + random.choice((0, 0, 1, 4))] = random.choice(tokens)


def _size_field(content: bytearray, _: bytes, __: Sequence[bytes], random: Random) -> None:
    width, letter = random.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    if len(content) >= width:
        # headers stand at the start, or at the end: aim there more often
        last = len(content) - width
        near = random.choice((last, min(last, 200)))
        at = random.randint(0, near) if random.random() < 0.8 else last - random.randint(0, near)
        number = random.choice(SIZES) % 256**width
        content[at : at + width] = struct.pack(random.choice("<>") + letter, number)


def _number(content: bytearray, _: bytes, __: Sequence[bytes], random: Random) -> None:
    found = list(re.finditer(rb"[0-9]+", content[:20_000]))
    if found:
        start, end = random.choice(found).span()
        content[start:end] = random.choice(_NUMBERS).encode()


def _splice(content: bytearray, other: bytes, _: Sequence[bytes], random: Random) -> None:
    start, end = _span(len(other), random)
    at, to = _span(len(content), random)
    content[at:to] = other[start:end]


_CHANGES = (_flip, _flip, _set, _cut_off, _remove, _repeat, _insert, _size_field, _number, _splice)


def _span(length: int, random: Random) -> tuple[int, int]:
    start = random.randrange(length + 1)
    return start, min(length, start + random.choice((1, 2, 4, 16, 100, 1000)))


# --- documents ------------------------------------------------------------------------------


def odd_value(random: Random, depth: int = 0) -> Any:
    """A value that JSON can hold, and that hardly fits where it is put."""
    kind = random.randrange(6 if depth < 3 else 4)
    if kind == 0:
        return random.choice((None, True, False, [], {}, [[]], [None], {"a": 1}))
    if kind == 1:
        return random.choice((1, -1)) * random.choice((*SIZES, 10**400))
    if kind == 2:
        return random.choice((0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf")))
    if kind == 3:
        return random.choice(_TEXTS)
    if kind == 4:
        return [odd_value(random, depth + 1) for _ in range(random.randrange(5))]
    return {random.choice(_TEXTS): odd_value(random, depth + 1) for _ in range(random.randrange(4))}


def change_value(document: Any, random: Random) -> Any:
    """The document with a value somewhere in it replaced, left out, repeated or swapped."""
    changed = json.loads(json.dumps(document))
    places = list(_places(changed))
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        holder, key = random.choice(places)
        action = random.randrange(6)
        try:
            if action == 0:
                del holder[key]
            elif action == 1 and isinstance(holder, list):
                holder.extend([holder[key]] * random.choice((1, 2, 100)))
            elif action == 2:
                other, name = random.choice(places)
                holder[key], other[name] = other[name], holder[key]
            elif action == 3 and isinstance(holder, dict):
                holder[random.choice(_TEXTS)] = holder[key]
            else:
                holder[key] = odd_value(random)
        except LookupError:  # an earlier change removed it
            continue
    return changed


def _places(document: Any) -> Any:
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(pairs):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def as_json(document: Any, random: Random) -> bytes:
    """Its text; where it was made to hold itself, one that nests deeply."""
    try:
        return json.dumps(document, ensure_ascii=random.random() < 0.5).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return b"[" * 100_000


# --- checksums and length fields set right, so that what lies behind them is reached ----------


def mend_png(data: bytes) -> bytes:
    """With the right checksum on each chunk, as far as the chunks go."""
    content, at = bytearray(data), _PNG_HEAD
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(content)


def repack_png(data: bytes, tokens: Sequence[bytes], random: Random) -> bytes:
    """With its pixels unpacked, damaged and packed again."""
    at = data.find(b"IDAT")
    if at < 4:
        return data
    (length,) = struct.unpack_from(">I", data, at - 4)
    pixels = damage(zlib.decompress(data[at + 4 : at + 4 + length]), data, tokens, random)
    packed = zlib.compress(pixels, 1)
    head = data[: at - 4] + struct.pack(">I", len(packed)) + b"IDAT" + packed
    return mend_png(head + bytes(4) + data[at + 8 + length :])
