"""The physical size of a pixel, and the channels of a file by number or name."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flowseg.errors import FlowsegError

_log = logging.getLogger(__name__)

_MICROMETRES = {
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("\\u00b5m", "micrometers", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("inch", "in"), 25_400.0),
}


class PixelSize(NamedTuple):
    """Height and width of a pixel in micrometres."""

    y: float
    x: float

    def tiff_tags(self) -> dict[str, Any]:
        """Arguments of tifffile's writer: pixels a centimetre, across and down."""
        return {"resolution": (1e4 / self.x, 1e4 / self.y), "resolutionunit": "CENTIMETER"}


def in_micrometres(y: tuple[Any, str], x: tuple[Any, str]) -> PixelSize | None:
    """A pixel's height and width from values and their units; None where they tell nothing."""
    try:
        sides = [float(value) * _MICROMETRES[unit.strip().lower()] for value, unit in (y, x)]
    except (KeyError, ValueError, TypeError):
        return None
    return PixelSize(*sides) if all(math.isfinite(s) and s > 0 for s in sides) else None


def channel_number(channel: int | str, count: int, names: Sequence[str], path: Path) -> int:
    """The number of a channel, from 0, that is named by its number or its name.

    Raises
    ------
    FlowsegError
        If the file has no such channel.
    """
    text = str(channel).strip()
    matching = [k for k, name in enumerate(names) if name and name.lower() == text.lower()]
    if len(matching) == 1:
        return matching[0]
    if text.isdecimal() and int(text) < count:
        return int(text)
    known = ", ".join(name for name in names if name)
    raise FlowsegError(
        f"has no channel {text!r}: it has {count}" + (f" ({known})" if known else ""),
        file=path,
        remedy=f"name one from 0 to {count - 1}" + (" or by its name" if known else ""),
    )


def warn_of_channels(path: Path, count: int, names: Sequence[str]) -> None:
    """Say that each channel of a file will be an image of its own."""
    known = ", ".join(name for name in names if name)
    _log.warning(
        "%s: each of its %d channels%s is taken as an image; --channel picks one",
        path,
        count,
        f" ({known})" if known else "",
    )
