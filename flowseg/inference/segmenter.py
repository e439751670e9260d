"""Segmenter: an image in, its instances out."""

from __future__ import annotations

import math
import os
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from flowseg.config import CellType, Precision
from flowseg.errors import FlowsegError
from flowseg.flow.dynamics import flows_to_labels
from flowseg.image import normalize, resize, to_grey
from flowseg.inference.tiles import FlowField, predict_field
from flowseg.network.checkpoint import Card, load_network
from flowseg.network.device import pick_device, pick_precision
from flowseg.network.unet import FlowNetwork

__all__ = ["Prediction", "Segmenter"]

Number = TypeVar("Number", int, float, "float | None")


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
    """

    labels: NDArray[np.int32]
    flows: NDArray[np.float32]
    cellprob: NDArray[np.float32]
    cell_type: str


class Segmenter:
    """Finds the instances of images with one network.

    Parameters
    ----------
    network : FlowNetwork
        The weights; moved to `device` and put in evaluation mode.
    card : Card
        What the cell types need.
    device : str
        "auto", "cpu", "cuda" or "mps".
    precision : {"auto", "float32", "bfloat16", "float16"}
        Number type of the convolutions.

    Examples
    --------
    >>> segmenter = Segmenter.load("runs/shsy5y/best.safetensors")  # doctest: +SKIP
    >>> labels = segmenter.segment(image).labels  # doctest: +SKIP
    """

    def __init__(
        self,
        network: FlowNetwork,
        card: Card,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.device = pick_device(device)
        self.dtype = pick_precision(precision, self.device)
        self.card = card
        self.network = network.to(self.device).eval()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Segmenter:
        """A segmenter from a checkpoint file."""
        network, card = load_network(path)
        return cls(network, card, device, precision)

    def segment(
        self,
        image: ArrayLike,
        *,
        cell_type: str | None = None,
        diameter: float | None = None,
        cellprob_threshold: float | None = None,
        flow_threshold: float | None = None,
        min_size: int | None = None,
    ) -> Prediction:
        """Find the instances of one image.

        Parameters
        ----------
        image : array_like, shape (H, W) or (H, W, C)
            Grey or colour, any integer or float type.
        cell_type : str, optional
            One of the card's cell types; by default the network names it.
        diameter, cellprob_threshold, flow_threshold, min_size : optional
            As in :class:`flowseg.config.CellType`; by default the card's for the cell type.

        Returns
        -------
        Prediction
            At the size of `image`.

        Raises
        ------
        FlowsegError
            For an array that is no image or a cell type that the card does not hold.
        """
        grey = normalize(to_grey(np.asarray(image)))
        name = self.name_cell_type(grey) if cell_type is None else cell_type
        own = self.needs(name)
        needs = CellType(
            diameter=_first(diameter, own.diameter),
            cellprob_threshold=_first(cellprob_threshold, own.cellprob_threshold),
            flow_threshold=_first(flow_threshold, own.flow_threshold),
            min_size=_first(min_size, own.min_size),
        )
        field = self.predict(grey, needs)
        labels = flows_to_labels(
            field.flows,
            field.cellprob,
            cellprob_threshold=needs.cellprob_threshold,
            flow_threshold=needs.flow_threshold,
            min_size=needs.min_size,
        )
        return Prediction(labels, field.flows, field.cellprob, name)

    def predict(self, grey: NDArray[np.float32], needs: CellType) -> FlowField:
        """The flow field of a normalised grey image, at the image's own size.

        Parameters
        ----------
        grey : ndarray, shape (H, W), float32
            From :func:`flowseg.image.normalize`.
        needs : CellType
            Its diameter says how far the image is rescaled.

        Returns
        -------
        FlowField
        """
        rescaled = resize(grey, _scaled(grey.shape, self._zoom(needs)))
        field = predict_field(self.network, rescaled, self.dtype)
        if rescaled.shape == grey.shape:
            return field
        flows = np.stack([resize(component, grey.shape) for component in field.flows])
        return FlowField(flows, resize(field.cellprob, grey.shape), field.cell_type)

    def name_cell_type(self, grey: NDArray[np.float32]) -> str:
        """The cell type of a normalised grey image, seen at each type's scale in turn."""
        names = list(self.card.cells)
        if len(names) == 1:
            return names[0]
        votes = np.zeros(len(names))
        for zoom in sorted({self._zoom(cell) for cell in self.card.cells.values()}):
            # The middle is enough to tell, and the type costs less than the instances.
            middle = _middle(grey, math.ceil(512 / zoom))
            rescaled = resize(middle, _scaled(middle.shape, zoom))
            votes += log_softmax(predict_field(self.network, rescaled, self.dtype).cell_type)
        return names[int(np.argmax(votes))]

    def needs(self, name: str) -> CellType:
        """What images of cell type `name` need, from the card."""
        if name not in self.card.cells:
            raise FlowsegError(
                f"the model knows no cell type {name!r}",
                remedy=f"choose one of {', '.join(self.card.cells)}",
            )
        return self.card.cells[name]

    def _zoom(self, needs: CellType) -> float:
        if needs.diameter is None:
            raise FlowsegError("the diameter of this cell type is unknown", remedy="give one")
        return self.network.config.diameter / needs.diameter


def _first(given: Number | None, own: Number) -> Number:
    return own if given is None else given


def _scaled(shape: tuple[int, ...], zoom: float) -> tuple[int, int]:
    return max(1, round(shape[0] * zoom)), max(1, round(shape[1] * zoom))


def _middle(image: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    top, left = (max(0, (length - edge) // 2) for length in image.shape)
    return np.ascontiguousarray(image[top : top + edge, left : left + edge])
