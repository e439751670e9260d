"""Segmenter: an image in, its instances out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowseg.arrays.intensity import normalize, to_grey
from flowseg.config.schema import CellTypeSettings, Precision
from flowseg.errors import FlowsegError
from flowseg.inference.auto_scale import classify_cell_type, estimate_diameter, known_diameter
from flowseg.inference.ensemble import Ensemble
from flowseg.inference.flow_field import DeviceField, FlowField, field_to_labels
from flowseg.inference.rescale import rescale
from flowseg.inference.tiles import predict_field
from flowseg.network.checkpoint import Card, load_network
from flowseg.network.device import pick_device, pick_precision
from flowseg.network.unet import FlowNetwork

__all__ = ["Inferred", "Prediction", "Prepared", "SegmentOptions", "Segmenter"]

_SMALLEST = 2.0
"""Pixels; an image of smaller cells would be enlarged beyond all memory."""


class Prediction(NamedTuple):
    """The instances of one image and the fields they come from.

    Attributes
    ----------
    labels : ndarray, shape (H, W), int32
        0 = background, instances 1 ... N.
    flows : ndarray, shape (2, H, W), float32
        Order (dy, dx), of about unit length inside cells.
    cellprob : ndarray, shape (H, W), float32
        Logit of the probability that a pixel lies in a cell.
    cell_type : str
        The cell type that was given or found.
    diameter : float
        The mean cell diameter that was assumed, in pixels.
    disagreement : ndarray, shape (H, W), float32, or None
        Where asked for: root mean square distance of the flows of the networks and views from
        their mean; 0 where all agree.
    """

    labels: NDArray[np.int32]
    flows: NDArray[np.float32]
    cellprob: NDArray[np.float32]
    cell_type: str
    diameter: float
    disagreement: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class SegmentOptions:
    """What is asked of every image, as in :meth:`Segmenter.segment`; None: as the card says."""

    cell_type: str | None = None
    diameter: float | Literal["auto"] | None = None
    cellprob_threshold: float | None = None
    flow_threshold: float | None = None
    min_size: int | None = None
    disagreement: bool = False


class Prepared(NamedTuple):
    """An image ready for the network."""

    grey: NDArray[np.float32]
    options: SegmentOptions


class Inferred(NamedTuple):
    """What the networks say of an image, at their own scale, on their device."""

    field: DeviceField
    shape: tuple[int, int]
    settings: CellTypeSettings
    cell_type: str


class Segmenter:
    """Finds the instances of images with one network, or with several that are averaged.

    Parameters
    ----------
    network : FlowNetwork or sequence of FlowNetwork
        The weights; copied to `device`.
    card : Card
        What the cell types need.
    device : str
        "auto", "cpu", "cuda" or "mps".
    precision : {"auto", "float32", "bfloat16", "float16"}
        Number type of the convolutions.
    tta : {1, 2, 4, 8}
        Test-time augmentation: turned and mirrored views of each image that are averaged; costs as
        many times the network.
    compile : bool
        Whether torch.compile translates the networks first.

    Examples
    --------
    >>> segmenter = Segmenter.load("runs/shsy5y/best.safetensors")  # doctest: +SKIP
    >>> labels = segmenter.segment(image).labels  # doctest: +SKIP
    """

    def __init__(
        self,
        network: FlowNetwork | Sequence[FlowNetwork],
        card: Card,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        tta: int = 1,
        compile: bool = False,
    ) -> None:
        self.device = pick_device(device)
        self.card = card
        networks = [network] if isinstance(network, FlowNetwork) else list(network)
        dtype = pick_precision(precision, self.device)
        self.ensemble = Ensemble(networks, self.device, dtype, tta, compile)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        device: str = "auto",
        precision: Precision = "auto",
        *,
        tta: int = 1,
        compile: bool = False,
    ) -> Segmenter:
        """A segmenter from a checkpoint file, or from several that answer together.

        Raises
        ------
        FlowsegError
            If a file cannot be read, or differs from the first in its cell types or its diameter.
        """
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        loaded = [load_network(one) for one in paths]
        first = loaded[0][1]
        for one, (_, card) in zip(paths, loaded, strict=True):
            same = list(card.cell_types) == list(first.cell_types)
            if not same or card.network.target_diameter != first.network.target_diameter:
                raise FlowsegError(
                    f"differs from {Path(paths[0])} in its cell types or its diameter",
                    file=one,
                    remedy="let models answer together that were trained on the same cell types",
                )
        card = replace(first, cell_types=_mean_cells([card for _, card in loaded]))
        networks = [network for network, _ in loaded]
        return cls(networks, card, device, precision, tta=tta, compile=compile)

    def segment(
        self,
        image: ArrayLike,
        *,
        cell_type: str | None = None,
        diameter: float | Literal["auto"] | None = None,
        cellprob_threshold: float | None = None,
        flow_threshold: float | None = None,
        min_size: int | None = None,
        disagreement: bool = False,
    ) -> Prediction:
        """Find the instances of one image.

        Parameters
        ----------
        image : array_like, shape (H, W) or (H, W, C)
            Grey or colour, any integer or float type.
        cell_type : str, optional
            One of the card's cell types; by default the network names it.
        diameter : float or "auto", optional
            Mean cell diameter in pixels. "auto" measures it; see :meth:`resolve_settings`.
        cellprob_threshold, flow_threshold, min_size : optional
            As in :class:`flowseg.config.schema.CellTypeSettings`; by default the card's for the
            cell type, as for `diameter`.
        disagreement : bool
            Whether to map how far the networks and views are apart.

        Returns
        -------
        Prediction
            At the size of `image`.

        Raises
        ------
        FlowsegError
            For an array that is no image or a cell type that the card does not hold.
        """
        options = SegmentOptions(
            cell_type, diameter, cellprob_threshold, flow_threshold, min_size, disagreement
        )
        return self.finish(self.infer(self.prepare(image, options)))

    # The three steps of `segment`: one reads, one computes on the device, one follows the flows.
    # Many images go through them side by side (see `flowseg.inference.pipeline`).

    def prepare(self, image: ArrayLike, options: SegmentOptions) -> Prepared:
        """Grey and normalised."""
        return Prepared(normalize(to_grey(np.asarray(image))), options)

    def infer(self, prepared: Prepared) -> Inferred:
        """Name the cell type, where it was not given, and run the networks."""
        grey, options = prepared
        name, settings = self.resolve_settings(grey, options)
        field = self.predict_scaled(grey, settings, options.disagreement)
        if self.device.type == "cuda":  # whichever thread and stream goes on, the field is there
            torch.cuda.current_stream(self.device).synchronize()
        return Inferred(field, (grey.shape[0], grey.shape[1]), settings, name)

    def finish(self, inferred: Inferred) -> Prediction:
        """Bring the flow field to the image's own size and follow it."""
        settings = inferred.settings
        with _stream(self.device):
            labels, field = self.compute_labels(inferred.field, inferred.shape, settings)
        return Prediction(
            labels,
            field.flows,
            field.cellprob,
            inferred.cell_type,
            known_diameter(settings),
            field.disagreement,
        )

    def predict_flows(self, grey: NDArray[np.float32], settings: CellTypeSettings) -> FlowField:
        """The flow field of a normalised grey image, at the image's own size.

        Parameters
        ----------
        grey : ndarray, shape (H, W), float32
            From :func:`flowseg.arrays.intensity.normalize`.
        needs : CellType
            Its diameter says how far the image is rescaled.

        Returns
        -------
        FlowField
        """
        return self.predict_scaled(grey, settings).resized((grey.shape[0], grey.shape[1])).to_host()

    def predict_scaled(
        self, grey: NDArray[np.float32], settings: CellTypeSettings, disagreement: bool = False
    ) -> DeviceField:
        """The flow field of a normalised grey image, at the networks' scale, on their device."""
        scaled = rescale(grey, self.scaled_shape(grey.shape, settings))
        return predict_field(self.ensemble, scaled, disagreement=disagreement)

    def compute_labels(
        self, field: DeviceField, shape: tuple[int, ...], settings: CellTypeSettings
    ) -> tuple[NDArray[np.int32], FlowField]:
        """The instances of a field at an image's own size, and the field at that size."""
        own = field.resized((shape[0], shape[1]))
        to_host = own.to_host()
        return field_to_labels(to_host, settings, self.device, own.maps), to_host

    def resolve_settings(
        self, grey: NDArray[np.float32], options: SegmentOptions
    ) -> tuple[str, CellTypeSettings]:
        """The cell type of a normalised grey image and what it needs, by a glance where not given.

        See :func:`flowseg.inference.auto_scale.estimate_diameter` for how the size is measured.
        """
        name = classify_cell_type(self, grey) if options.cell_type is None else options.cell_type
        settings = self.settings_for(name, options)
        if options.diameter == "auto":
            settings = replace(settings, diameter=estimate_diameter(self, grey, settings))
        return name, settings

    def settings_for(
        self, name: str, options: SegmentOptions = SegmentOptions()
    ) -> CellTypeSettings:
        """What images of cell type `name` need: as requested, else as on the card."""
        if name not in self.card.cell_types:
            raise FlowsegError(
                f"the model knows no cell type {name!r}",
                remedy=f"choose one of {', '.join(self.card.cell_types)}",
            )
        given = {
            field.name: value
            for field in fields(CellTypeSettings)
            if (value := getattr(options, field.name)) not in (None, "auto")
        }
        settings = replace(self.card.cell_types[name], **given)
        if settings.diameter is None:
            raise FlowsegError(
                f"the diameter of the cell type {name!r} is unknown", remedy="give one"
            )
        if settings.diameter < _SMALLEST:
            raise FlowsegError(
                f"a diameter of {settings.diameter:g} pixels is too small to find cells",
                remedy="give it in pixels of the image",
            )
        return settings

    def check(self, options: SegmentOptions) -> None:
        """Refuse what no image could be segmented with, before any image is read."""
        for name in self.card.cell_types if options.cell_type is None else [options.cell_type]:
            self.settings_for(name, options)

    def scaled_shape(self, shape: tuple[int, ...], settings: CellTypeSettings) -> tuple[int, int]:
        """The size at which the networks see an image: multiples of their stride."""
        zoom, stride = self.ensemble.diameter / known_diameter(settings), self.ensemble.stride
        height, width = (max(1, round(edge * zoom / stride)) * stride for edge in shape)
        return height, width


@contextmanager
def _stream(device: torch.device) -> Iterator[None]:
    """On a GPU a queue of one's own, so that what is done there waits for no other image."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield


def _mean_cells(cards: Sequence[Card]) -> dict[str, CellTypeSettings]:
    """What networks that answer together need: the mean of what each needs."""

    def mean(cells: list[CellTypeSettings]) -> CellTypeSettings:
        values: dict[str, Any] = {}
        for field in fields(CellTypeSettings):
            own = [getattr(cell, field.name) for cell in cells]
            values[field.name] = None if None in own else sum(own) / len(own)
        return CellTypeSettings(**values | {"min_size": round(values["min_size"])})

    return {name: mean([card.cell_types[name] for card in cards]) for name in cards[0].cell_types}
