"""What a user may ask of a segmentation, and the cell type's settings that follow from it."""

from __future__ import annotations

import numbers
from dataclasses import dataclass, fields, replace
from typing import Literal

from flowseg.config.schema import CellTypeSettings
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import Card

_MIN_DIAMETER = 2.0
"""Pixels; an image of smaller cells would be enlarged beyond all memory."""


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Options of :meth:`flowseg.Segmenter.segment`; None: as on the model's card."""

    cell_type: str | None = None
    diameter: float | Literal["auto"] | None = None
    cellprob_threshold: float | None = None
    flow_threshold: float | None = None
    min_size: int | None = None
    disagreement: bool = False
    channel: int | str | None = None
    """Of files with several: its number from 0, or its name."""
    nucleus_channel: int | str | None = None
    """The same of the nuclei, for a model of Cellpose that was trained with them."""
    exclude_border: bool = False
    """Whether cells that the image's edge cuts are left out."""
    cellpose_tiles: bool = False
    """Whether a model of Cellpose computes that program's tiles, as
    :mod:`flowseg.inference.cellpose_tiles` says."""


def settings_for(
    card: Card, cell_type: str, options: SegmentOptions = SegmentOptions()
) -> CellTypeSettings:
    """The settings of a cell type: as in the options, else as on the card.

    A diameter to be measured is that of the card, None where the card has none.
    """
    if cell_type not in card.cell_types:
        raise FlowsegError(
            f"the model knows no cell type {cell_type!r}",
            remedy=f"choose one of {', '.join(card.cell_types)}",
        )
    _check_numbers(options)
    if options.cellpose_tiles and card.network.kind != "cellpose":
        raise FlowsegError(
            "the tiles of Cellpose are for its models, and this is none of them",
            remedy="leave out --cellpose-tiles",
        )
    if options.nucleus_channel is not None:
        check_nuclei(card)
        if options.channel is None:
            raise FlowsegError(
                "a channel of nuclei is named, and none of the cells",
                remedy="name it with --channel",
            )
    given = {
        field.name: value
        for field in fields(CellTypeSettings)
        if (value := getattr(options, field.name)) not in (None, "auto")
    }
    settings = replace(card.cell_types[cell_type], **given)
    if settings.diameter is not None and settings.diameter < _MIN_DIAMETER:
        raise FlowsegError(
            f"a diameter of {settings.diameter:g} pixels is too small to find cells",
            remedy="give it in pixels of the image",
        )
    return settings


def check_nuclei(card: Card) -> None:
    """Refuse nuclei for a model that was trained without them."""
    if card.network.input_channels < 2:
        raise FlowsegError(
            "the model sees one channel, no nuclei", remedy="leave out --nucleus-channel (nuclei)"
        )


def _check_numbers(options: SegmentOptions) -> None:
    """Refuse text and the like where a number is meant."""
    for name in ("diameter", "cellprob_threshold", "flow_threshold", "min_size"):
        value = getattr(options, name)
        if value is None or (name == "diameter" and value == "auto"):
            continue
        if not isinstance(value, numbers.Real):
            also = " or 'auto'" if name == "diameter" else ""
            raise FlowsegError(f"{name} is {value!r}, not a number", remedy=f"give a number{also}")


def check_options(card: Card, options: SegmentOptions) -> None:
    """Refuse options that no image could be segmented with, before any image is read."""
    for name in card.cell_types if options.cell_type is None else [options.cell_type]:
        settings_for(card, name, options)


def known_diameter(settings: CellTypeSettings) -> float:
    """The mean cell diameter in pixels."""
    if settings.diameter is None:
        raise FlowsegError("the cells' diameter is unknown", remedy="give one")
    return settings.diameter
