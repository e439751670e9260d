"""The widget that compares two Labels layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import Container, Label, PushButton, create_widget
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from flowseg.errors import FlowsegError
from flowseg.napari.errors_shown import errors_shown
from flowseg.napari.outcomes import COLOURS, OutcomeImage, outcome_image

if TYPE_CHECKING:
    import napari

_NEXT = "Shift-E"
_VIEW = 120
"""Pixels of the image around a mistake that are shown at most."""


class Compare(Container):  # type: ignore[misc]  # magicgui is not typed for mypy's taste
    """Colour two segmentations by hits and mistakes, and go from one mistake to the next.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Where the layers are.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self.truth = create_widget(label="truth", annotation=Labels)
        self.prediction = create_widget(label="prediction", annotation=Labels)
        self.run = PushButton(text="Compare")
        self.next = PushButton(text=f"Next mistake ({_NEXT})", enabled=False)
        self.score = Label(label="score", value="")
        self.summary = Label(value="")
        super().__init__(
            widgets=[self.truth, self.prediction, self.run, self.next, self.score, self.summary]
        )
        self.result: Any = None
        """The layer of outcomes."""
        self._found: OutcomeImage | None = None
        self._at = -1
        self.run.clicked.connect(self.compare)
        self.next.clicked.connect(self.show_next)
        viewer.bind_key(_NEXT, lambda _: self.show_next(), overwrite=True)

    @errors_shown()
    def compare(self) -> None:
        """Compare the chosen layers, and add one of their outcomes."""
        truth, prediction = self.truth.value, self.prediction.value
        if truth is None or prediction is None:
            raise FlowsegError("there are no two Labels layers to compare")
        if truth.ndim != 2 or prediction.ndim != 2:
            raise FlowsegError("the layers have more than two axes; compare single frames")
        found = outcome_image(np.asarray(truth.data), np.asarray(prediction.data))
        self._found, self._at = found, -1
        self.score.value, self.summary.value = f"{found.score:.3f}", found.summary
        self.next.enabled = bool(found.mistakes)
        if self.result is not None and self.result in self._viewer.layers:
            self._viewer.layers.remove(self.result)
        colours: dict[int | None, str] = {None: "transparent", 0: "transparent"}
        colours |= {1 + outcome: colour for outcome, colour in COLOURS.items()}
        self.result = self._viewer.add_labels(
            found.image,
            name="outcomes",
            colormap=DirectLabelColormap(color_dict=colours),
            scale=truth.scale,
            translate=truth.translate,
        )

    def show_next(self) -> None:
        """Move the view to the next mistake; after the last comes the first."""
        found = self._found
        if found is None or not found.mistakes or self.result not in self._viewer.layers:
            return
        self._at = (self._at + 1) % len(found.mistakes)
        centre = self.result.data_to_world(found.mistakes[self._at])
        camera = self._viewer.scene.camera
        camera.center = tuple(centre)
        pixel = float(self.result.scale[-1])
        # A window is about this many screen pixels high.
        camera.zoom = max(camera.zoom, 600 / (_VIEW * pixel))
