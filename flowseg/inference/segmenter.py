"""Segmenter: an image in, its instances out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flowseg.arrays.intensity import normalize, to_grey
from flowseg.arrays.labels import clear_border, renumber
from flowseg.config.schema import CellTypeSettings, Precision
from flowseg.errors import FlowsegError
from flowseg.inference.auto_scale import resolve_settings
from flowseg.inference.cellpose_tiles import predict_cellpose_tiles
from flowseg.inference.ensemble import Ensemble, own_stream
from flowseg.inference.flow_field import DeviceField, FlowField, compute_labels
from flowseg.inference.options import SegmentOptions, check_nuclei, known_diameter
from flowseg.inference.tiles import predict_rescaled
from flowseg.network.architecture import Architecture
from flowseg.network.checkpoint import Card, load_network
from flowseg.network.size_model import SizeModel, size_model_beside


class Prediction(NamedTuple):
    """The instances of one image and the flow field they come from.

    Attributes
    ----------
    labels : ndarray, shape (H, W), int32
        0 = background, instances 1 ... N.
    flows : ndarray, shape (2, H, W), float32
        Order (dy, dx), of about unit length inside cells.
    cellprob : ndarray, shape (H, W), float32
        Logit of the probability that a pixel lies in a cell.
    cell_type : str
        The cell type, given or predicted.
    diameter : float
        The mean cell diameter that was assumed, in pixels.
    disagreement : ndarray, shape (H, W), float32, or None
        If asked for: root mean square distance of the flows of all networks and test-time
        augmentations from their mean; 0 where all agree.
    """

    labels: NDArray[np.int32]
    flows: NDArray[np.float32]
    cellprob: NDArray[np.float32]
    cell_type: str
    diameter: float
    disagreement: NDArray[np.float32] | None = None


class Segmenter:
    """Segments images with one network, or with the mean of several.

    It can be pickled and copied: the copy picks its device anew and predicts the same.

    Parameters
    ----------
    network : Architecture or sequence of Architecture
        The weights; copied to `device`.
    card : Card
        The settings of the cell types.
    device : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    precision : {"auto", "float32", "bfloat16", "float16"}
        Number type of the convolutions.
    tta : {1, 2, 4, 8}
        Test-time augmentation: rotated and mirrored copies of each image whose predictions are
        averaged; costs as many times the network.
    compile : bool
        Whether torch.compile translates the networks first.
    size_model : SizeModel, optional
        Of a model of Cellpose: where the measuring of a diameter begins.

    Examples
    --------
    >>> segmenter = Segmenter.load("runs/shsy5y/best.safetensors")  # doctest: +SKIP
    >>> labels = segmenter.segment(image).labels  # doctest: +SKIP
    """

    def __init__(
        self,
        network: Architecture | Sequence[Architecture],
        card: Card,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        tta: int = 1,
        compile: bool = False,
        size_model: SizeModel | None = None,
    ) -> None:
        networks = [network] if isinstance(network, Architecture) else list(network)
        self.card = card
        self.size_model = size_model
        self.ensemble = Ensemble(networks, device, precision, tta=tta, compile=compile)

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.ensemble.device

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
        """A segmenter from a checkpoint file, or from several as an ensemble.

        A path may be the name of a shipped model. Beside a model of Cellpose its size model,
        ``size_NAME.npy``, is used to measure diameters.

        Raises
        ------
        FlowsegError
            If a file cannot be read, or differs from the first in its cell types or its diameter.
        """
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        networks, cards = zip(*(load_network(checkpoint) for checkpoint in paths), strict=True)
        for checkpoint, card in zip(paths, cards, strict=True):
            same = list(card.cell_types) == list(cards[0].cell_types)
            same = same and card.normalization == cards[0].normalization
            if not same or card.network.target_diameter != cards[0].network.target_diameter:
                raise FlowsegError(
                    f"differs from {Path(paths[0])} in its cell types, diameter or normalization",
                    file=checkpoint,
                    remedy="make ensembles of models that were trained on the same cell types",
                )
        card = replace(cards[0], cell_types=_mean_settings(cards))
        size_model = None
        if len(paths) == 1 and card.network.kind == "cellpose":
            size_model = size_model_beside(paths[0], card.network.channels[-1])
        return cls(
            networks, card, device, precision, tta=tta, compile=compile, size_model=size_model
        )

    @overload
    def segment(
        self, image: list[NDArray[Any]] | tuple[NDArray[Any], ...], **options: Any
    ) -> list[Prediction]: ...

    @overload
    def segment(self, image: ArrayLike, **options: Any) -> Prediction: ...

    def segment(  # type: ignore[misc]  # noqa: PLR0913  # the overloads' options are these
        self,
        image: Any,
        *,
        nuclei: ArrayLike | None = None,
        cell_type: str | None = None,
        diameter: float | Literal["auto"] | None = None,
        cellprob_threshold: float | None = None,
        flow_threshold: float | None = None,
        min_size: int | None = None,
        disagreement: bool = False,
        exclude_border: bool = False,
        cellpose_tiles: bool = False,
    ) -> Prediction | list[Prediction]:
        """Find the instances of one image, or of each image of a list.

        Parameters
        ----------
        image : array_like, shape (H, W) or (H, W, C), or list of ndarray
            Grey or colour, any integer or float type; images of a list may differ in size.
        nuclei : array_like, shape (H, W), optional
            The nuclei of one image, for a model of Cellpose that was trained with them.
        cell_type : str, optional
            One of the card's cell types; by default the network predicts it.
        diameter : float or "auto", optional
            Mean cell diameter in pixels. "auto" measures it, as
            :func:`flowseg.inference.auto_scale.estimate_diameter` says.
        cellprob_threshold, flow_threshold, min_size : optional
            As in :class:`flowseg.config.schema.CellTypeSettings`; by default the card's for the
            cell type, as for `diameter`.
        disagreement : bool
            Whether to map how far networks and test-time augmentations are apart.
        exclude_border : bool
            Whether to leave out the cells that the image's edge cuts.
        cellpose_tiles : bool
            Whether a model of Cellpose computes the overlapping tiles of Cellpose 3, each with a
            style of its own, so that its flow field is the one that it has there.

        Returns
        -------
        Prediction
            At the size of `image`; a list of them for a list.

        Raises
        ------
        FlowsegError
            For an array that is no image or a cell type that the card does not hold.
        """
        options = SegmentOptions(
            cell_type=cell_type,
            diameter=diameter,
            cellprob_threshold=cellprob_threshold,
            flow_threshold=flow_threshold,
            min_size=min_size,
            disagreement=disagreement,
            exclude_border=exclude_border,
            cellpose_tiles=cellpose_tiles,
        )
        if isinstance(image, list | tuple) and any(np.ndim(one) > 1 for one in image):
            if nuclei is not None:
                raise FlowsegError("nuclei are those of one image, not of a list")
            return [self._segment(one, None, options) for one in image]
        return self._segment(image, nuclei, options)

    def _segment(
        self, image: ArrayLike, nuclei: ArrayLike | None, options: SegmentOptions
    ) -> Prediction:
        return postprocess(self, predict(self, preprocess(self, image, nuclei), options))

    def predict_flows(self, grey: NDArray[np.float32], settings: CellTypeSettings) -> FlowField:
        """The flow field of a normalised grey image (H, W), at the image's own size.

        The diameter of the settings decides the scale at which the networks see the image.
        """
        with own_stream(self.device):
            field = predict_rescaled(self.ensemble, grey, known_diameter(settings))
            return field.resized((grey.shape[-2], grey.shape[-1])).to_host()


# The three steps of `Segmenter.segment`; `flowseg.inference.pipeline` runs them side by side.


class ScaledPrediction(NamedTuple):
    """The output of the networks for an image of `shape`, at their own scale, on their device."""

    field: DeviceField
    shape: tuple[int, int]
    settings: CellTypeSettings
    cell_type: str
    exclude_border: bool


def preprocess(
    segmenter: Segmenter, image: ArrayLike, nuclei: ArrayLike | None = None
) -> NDArray[np.float32]:
    """An image as the networks take it: grey and normalised; (2, H, W) with its nuclei."""
    grey = normalize(to_grey(np.asarray(image)), how=segmenter.card.normalization)
    if nuclei is None:
        return grey
    check_nuclei(segmenter.card)
    second = normalize(to_grey(np.asarray(nuclei)), how=segmenter.card.normalization)
    if second.shape != grey.shape:
        raise FlowsegError(
            f"the image of the nuclei is {second.shape[1]} x {second.shape[0]} pixels, "
            f"that of the cells {grey.shape[1]} x {grey.shape[0]}"
        )
    return np.stack([grey, second])


def predict(
    segmenter: Segmenter, grey: NDArray[np.float32], options: SegmentOptions
) -> ScaledPrediction:
    """Resolve the settings of an image, and run the networks."""
    with own_stream(segmenter.device) as stream:
        cell_type, settings = resolve_settings(segmenter, grey, options)
        compute = predict_cellpose_tiles if options.cellpose_tiles else predict_rescaled
        field = compute(segmenter.ensemble, grey, known_diameter(settings), options.disagreement)
        if stream is not None:  # complete for whichever thread and stream goes on
            stream.synchronize()
    return ScaledPrediction(
        field=field,
        shape=(grey.shape[-2], grey.shape[-1]),
        settings=settings,
        cell_type=cell_type,
        exclude_border=options.exclude_border,
    )


def postprocess(segmenter: Segmenter, predicted: ScaledPrediction) -> Prediction:
    """Resize the flow field to the image, and compute the labels from it."""
    settings = predicted.settings
    with own_stream(segmenter.device):
        labels, field = compute_labels(predicted.field, predicted.shape, settings)
    if predicted.exclude_border:
        labels = renumber(clear_border(labels))
    return Prediction(
        labels=labels,
        flows=field.flows,
        cellprob=field.cellprob,
        cell_type=predicted.cell_type,
        diameter=known_diameter(settings),
        disagreement=field.disagreement,
    )


def _mean_settings(cards: Sequence[Card]) -> dict[str, CellTypeSettings]:
    """The settings of an ensemble: by cell type, the mean of those of its networks."""

    def mean(members: list[CellTypeSettings]) -> CellTypeSettings:
        values: dict[str, Any] = {}
        for field in fields(CellTypeSettings):
            numbers = [getattr(settings, field.name) for settings in members]
            values[field.name] = None if None in numbers else sum(numbers) / len(numbers)
        return CellTypeSettings(**values | {"min_size": round(values["min_size"])})

    return {name: mean([card.cell_types[name] for card in cards]) for name in cards[0].cell_types}
