"""What a TIFF says about its pages: their channels and the size of a pixel."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

from flowseg.io.physical import PixelSize, in_micrometres

_INCH, _CENTIMETRE = 2, 3
_DPI = (1, 72, 75, 96, 100, 150, 200, 300, 400, 600, 1200)
"""Dots an inch that programs write where they know nothing of the pixels."""


def page_channels(pages: list[Any]) -> tuple[list[int] | None, list[str]]:
    """The channel of each page, and the channels' names as far as they have any.

    None where the file does not say what its pages are.
    """
    tiff = pages[0].parent
    channels: dict[int, int] = {}
    for series in tiff.series if tiff.is_imagej or tiff.is_ome or tiff.is_shaped else ():
        sizes = dict(zip(series.axes, series.shape, strict=True))
        if sizes.keys() & set("QI") and "C" not in sizes:  # axes that nobody named
            continue
        # the first axis is the slowest
        inner = 1
        after = series.axes.partition("C")[2]
        for axis in after:
            inner *= 1 if axis in "YXS" else int(sizes[axis])
        for rank, page in enumerate(series.pages):
            if page is not None:
                channels[page.offset] = rank // inner % int(sizes["C"]) if "C" in sizes else 0
    found = [channels.get(page.offset) for page in pages]
    known = [channel for channel in found if channel is not None]
    names = _names(tiff, known)
    return (known, names) if len(known) == len(pages) else (None, names)


def _names(tiff: Any, channels: list[int]) -> list[str]:
    if tiff.is_ome:
        elements = [e for e in _ome(tiff).iter() if e.tag.endswith("}Channel")]
        return [element.get("Name", "") for element in elements[: max(channels, default=-1) + 1]]
    labels = (tiff.imagej_metadata or {}).get("Labels", []) if tiff.is_imagej else []
    labels = [labels] if isinstance(labels, str) else list(labels)
    first: dict[int, Any] = {}
    for channel, label in zip(channels, labels, strict=False):
        first.setdefault(channel, label)
    # ImageJ puts the place in the stack before it: "c:1/2 t:1/9 - Phase"
    return [re.sub(r"^c:.* - ", "", str(first.get(c, ""))) for c in range(len(first))]


def pixel_size(page: Any) -> PixelSize | None:
    """The size of a pixel, from OME-XML, ImageJ's calibration, a slide's MPP or the resolution."""
    tiff = page.parent
    if tiff.is_ome:
        pixels = next((e for e in _ome(tiff).iter() if e.tag.endswith("}Pixels")), None)
        if pixels is not None:
            values = [(pixels.get(f"PhysicalSize{a}"), _unit(pixels, a)) for a in "YX"]
            if all(value is not None for value, _ in values):
                return in_micrometres(*values)
        return None
    if tiff.is_svs:
        found = re.search(r"MPP\s*=\s*([0-9.]+)", str(tiff.pages.first.description))
        return in_micrometres((found[1], "um"), (found[1], "um")) if found else None
    tags = page.tags
    if "XResolution" not in tags or "YResolution" not in tags:
        return None
    dots = [tags[name].value for name in ("YResolution", "XResolution")]
    if any(not over or not under for over, under in dots):
        return None
    sides = [under / over for over, under in dots]
    if tiff.is_imagej and (unit := (tiff.imagej_metadata or {}).get("unit")):
        return in_micrometres(*((side, str(unit)) for side in sides))
    stored = int(tags.valueof("ResolutionUnit", _INCH))
    if stored == _CENTIMETRE:
        return in_micrometres(*((side, "cm") for side in sides))
    if stored == _INCH and round(1 / sides[0]) not in _DPI:
        return in_micrometres(*((side, "inch") for side in sides))
    return None


def _unit(pixels: ET.Element, axis: str) -> str:
    return pixels.get(f"PhysicalSize{axis}Unit", "um")


def _ome(tiff: Any) -> ET.Element:
    """The OME-XML; an empty element where it is damaged."""
    text = str(tiff.ome_metadata or "")
    try:
        # entities can grow without bounds, and OME-XML has none
        return ET.Element("none") if "<!ENTITY" in text else ET.fromstring(text)
    except ET.ParseError:
        return ET.Element("none")
