"""The widget that saves corrected cells, and trains a model on them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from magicgui.widgets import (
    ComboBox,
    Container,
    FileEdit,
    Label,
    PushButton,
    SpinBox,
    create_widget,
)
from napari.layers import Image, Labels, Shapes
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info

from flowseg.errors import FlowsegError, Stopped
from flowseg.napari.annotated import Region, save_annotated
from flowseg.napari.errors_shown import errors_shown
from flowseg.napari.segment import Segment, model_names
from flowseg.prediction.find_models import find_models

if TYPE_CHECKING:
    import napari

_TEXT = 60
"""Characters of the process's last line that are shown."""


class Learn(Container):  # type: ignore[misc]  # magicgui is not typed for mypy's taste
    """Save the corrected cells of an image, and train a model on all that were saved.

    The training is ``flowseg train`` in a process of its own, which goes on where it was stopped.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Where the layers are.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self.image = create_widget(label="image", annotation=Image)
        self.cells = create_widget(label="its cells", annotation=Labels)
        self.region = create_widget(
            label="annotated part",
            annotation=Shapes | None,
            options={"tooltip": "a layer with a rectangle, outside of which nothing was annotated"},
        )
        self.folder = FileEdit(label="folder", mode="d", value="annotated")
        self.save = PushButton(text="Save")
        self.model = ComboBox(label="start from", choices=model_names)
        self.minutes = SpinBox(label="minutes", value=5, min=1, max=6000)
        self.train = PushButton(text="Train")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.status = Label(label="", value="")
        super().__init__(
            widgets=[
                *(self.image, self.cells, self.region, self.folder, self.save),
                *(self.model, self.minutes, self.train, self.cancel, self.status),
            ]
        )
        self._process: subprocess.Popen[str] | None = None
        self._run = Path()
        self._stopped: list[str] = []
        """What the last training was asked to do, where it was cancelled."""
        self.save.clicked.connect(self.save_cells)
        self.train.clicked.connect(self.start)
        self.cancel.clicked.connect(self.stop)

    @errors_shown()
    def save_cells(self) -> None:
        """Write the image and its cells to the folder."""
        image, cells = self.image.value, self.cells.value
        if image is None or cells is None:
            raise FlowsegError("choose an image layer and the Labels layer of its cells")
        if image.ndim != 2 or cells.ndim != 2:
            raise FlowsegError("the layers have more than two axes; correct single frames")
        region = None if self.region.value is None else region_of(self.region.value, cells)
        pixels = image.data[0] if image.multiscale else image.data
        text = save_annotated(
            self.folder.value, image.name, np.asarray(pixels), np.asarray(cells.data), region
        )
        self._stopped = []  # its images are others now
        self.status.value = shortened(text)
        show_info(text)

    @errors_shown()
    def start(self) -> None:
        """Train in a process of its own; where the last one was cancelled, go on with it."""
        models = find_models([self.model.value])
        if len(models) > 1:
            raise FlowsegError(
                f"{self.model.value} holds {len(models)} networks",
                remedy="start from a single run",
            )
        task = [
            *("--data", str(self.folder.value), "--pretrain", str(models[0])),
            *("--time-budget", f"{self.minutes.value}m"),
        ]
        if task != self._stopped:
            self._run = next_run(Path("runs"))
        self.status.value = "starting"
        self._busy(True)
        worker = create_worker(
            self._follow,
            [
                *(sys.executable, "-m", "flowseg", "train", *task),
                *("--out", str(self._run), "--resume", "auto"),
            ],
            _connect={"yielded": self._show},
        )
        worker.returned.connect(lambda ended: self._finish(task, *ended))
        worker.finished.connect(lambda: self._busy(False))

    def stop(self) -> None:
        """Stop the training after its step; the next one goes on from there."""
        if self._process is not None:
            self._process.terminate()

    def _follow(self, command: list[str]) -> Generator[str, None, tuple[str, int]]:
        """In a thread: each line that the process writes; its last line and exit code."""
        line = ""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        ) as self._process:
            assert self._process.stdout is not None
            try:
                for text in self._process.stdout:  # a progress bar's \r ends a line, too
                    if text.strip():
                        line = text.strip()
                        yield line
            except GeneratorExit:  # the window is closed
                self._process.terminate()
                raise
        return line, self._process.returncode

    def _show(self, line: str) -> None:
        self.status.value = shortened(line)

    def _finish(self, task: list[str], line: str, code: int) -> None:
        self._stopped = task if code == Stopped.EXIT_CODE else []
        if code == 0:
            show_info(line)
        elif code == Stopped.EXIT_CODE:
            show_info("the training was stopped; Train goes on from there")
        else:
            show_error(line)
        self.model.reset_choices()
        for widget in self._viewer.window.dock_widgets.values():
            if isinstance(widget, Segment):
                widget.model.reset_choices()

    def _busy(self, busy: bool) -> None:
        self.train.enabled, self.cancel.enabled = not busy, busy


def region_of(shapes: Shapes, cells: Labels) -> Region:
    """Rows and columns of the cells' layer within the bounding box of the last shape.

    Raises
    ------
    FlowsegError
        Where there is no shape, or it lies outside.
    """
    if not len(shapes.data):
        raise FlowsegError(f"the layer {shapes.name!r} holds no rectangle", remedy="draw one")
    corners = np.array([cells.world_to_data(shapes.data_to_world(p)) for p in shapes.data[-1]])
    low = np.maximum(np.rint(corners.min(axis=0)).astype(int), 0)
    high = np.minimum(np.rint(corners.max(axis=0)).astype(int), cells.data.shape)
    if (high <= low).any():
        raise FlowsegError(f"the rectangle of {shapes.name!r} lies outside of the image")
    return slice(low[0], high[0]), slice(low[1], high[1])


def next_run(runs: Path) -> Path:
    """The folder of one more run of corrected cells."""
    number = 1
    while (runs / f"corrected-{number}").exists():
        number += 1
    return runs / f"corrected-{number}"


def shortened(text: str) -> str:
    """The end of a long line."""
    return text if len(text) <= _TEXT else f"... {text[-_TEXT:]}"
