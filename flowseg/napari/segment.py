"""The widget that segments an image layer, and whose sliders move the labels at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FileEdit,
    FloatSlider,
    FloatSpinBox,
    Label,
    ProgressBar,
    PushButton,
    Slider,
    create_widget,
)
from napari.layers import Image, Shapes
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from numpy.typing import NDArray

from flowseg.errors import FlowsegError, as_user_error
from flowseg.formats.cell_table import measure_cells
from flowseg.inference.segmenter import Segmenter
from flowseg.napari.errors_shown import errors_shown
from flowseg.napari.live_field import LiveField, Thresholds
from flowseg.network.checkpoint import read_card
from flowseg.network.shipped import shipped_models
from flowseg.prediction.find_models import find_models
from flowseg.training.run_folder import CROSS_VALIDATION, TRAINING, find_finished

if TYPE_CHECKING:
    import napari

_PREDICTED = "(the model decides)"


class Segment(Container):  # type: ignore[misc]  # magicgui is not typed for mypy's taste
    """Segment an image layer, one frame of a stack after the other.

    The flow fields are kept, so that the sliders change the labels without the network.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Where the layers are.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self.image = create_widget(label="image", annotation=Image)
        # Choices are functions, since magicgui asks again whenever layers come and go.
        self._cell_types = [_PREDICTED]
        self.model = ComboBox(label="model", choices=model_names)
        self.checkpoint = FileEdit(
            label="another", filter="*", nullable=True, tooltip="a run's folder or a checkpoint"
        )
        self.cell_type = ComboBox(label="cell type", choices=lambda _: self._cell_types)
        self.diameter = FloatSpinBox(
            label="diameter",
            max=5000,
            step=1,
            tooltip="of the cells, in pixels; 0: as the card says, or measured",
        )
        self.line = create_widget(
            label="or a line",
            annotation=Shapes | None,
            options={"tooltip": "a Shapes layer, whose last line is as long as a typical cell"},
        )
        self.tta = ComboBox(
            label="augmentation", choices=[1, 2, 4, 8], tooltip="rotated and mirrored views"
        )
        self.keep_fields = CheckBox(label="flows and cellprob as layers")
        self.run = PushButton(text="Segment")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.progress = ProgressBar(label="frames", value=0, max=1)
        self.cellprob_threshold = FloatSlider(label="cellprob threshold", min=-8, max=8, step=0.05)
        self.flow_threshold = FloatSlider(
            label="flow threshold", value=0.4, max=3, step=0.01, tooltip="0 keeps all cells"
        )
        self.min_size = Slider(label="minimum size", value=15, max=2000)
        self.exclude_border = CheckBox(label="leave out cells at the border")
        self.count = Label(label="cells", value="")
        super().__init__(
            widgets=[
                *(self.image, self.model, self.checkpoint, self.cell_type),
                *(self.diameter, self.line, self.tta, self.keep_fields),
                *(self.run, self.cancel, self.progress),
                *(self.cellprob_threshold, self.flow_threshold, self.min_size),
                *(self.exclude_border, self.count),
            ]
        )
        self.fields: list[LiveField] = []
        self.result: Any = None
        """The Labels layer."""
        self._worker: Any = None
        self._refresher: Any = None
        self._segmenter: tuple[object, Segmenter] | None = None
        self._source: dict[str, Any] = {}
        self.run.clicked.connect(self.segment)
        self.cancel.clicked.connect(self.stop)
        self.model.changed.connect(self.show_card)
        self.checkpoint.changed.connect(self.show_card)
        for slider in self._sliders:
            slider.changed.connect(self.refresh)
        self.show_card()

    @property
    def _sliders(self) -> list[Any]:
        return [
            *(self.cellprob_threshold, self.flow_threshold, self.min_size),
            self.exclude_border,
        ]

    @property
    def thresholds(self) -> Thresholds:
        """As the sliders stand."""
        return Thresholds(
            cellprob_threshold=self.cellprob_threshold.value,
            flow_threshold=self.flow_threshold.value,
            min_size=self.min_size.value,
            exclude_border=self.exclude_border.value,
        )

    @errors_shown()
    def show_card(self) -> None:
        """Offer the cell types of the chosen model, and its thresholds."""
        card = read_card(self._checkpoints()[0])
        names = list(card.cell_types)
        self._cell_types = [_PREDICTED, *names] if len(names) > 1 else names
        self.cell_type.reset_choices()
        settings = card.cell_types[names[0]]
        for slider, value in zip(
            self._sliders,
            (settings.cellprob_threshold, settings.flow_threshold, settings.min_size),
            strict=False,
        ):
            slider.value = float(np.clip(value, slider.min, slider.max))

    @errors_shown()
    def segment(self) -> None:
        """Segment the chosen layer in a thread."""
        layer = self.image.value
        if layer is None:
            raise FlowsegError(
                "there is no image layer", remedy="open an image, or File > Open Sample > flowseg"
            )
        checkpoints, frames = self._checkpoints(), frames_of(layer)
        drawn = None if self.line.value is None else length_of(self.line.value, layer)
        self._source = {
            "name": f"{layer.name} cells",
            "scale": layer.scale[-layer.ndim :],
            "translate": layer.translate[-layer.ndim :],
            "stack": layer.ndim == 3,
        }
        options: dict[str, Any] = {"diameter": drawn or self.diameter.value or None}
        if self.cell_type.value != _PREDICTED:
            options["cell_type"] = self.cell_type.value
        self.fields, self.result = [], None
        self.progress.max, self.progress.value = len(frames), 0
        self._busy(True)
        self._worker = create_worker(
            self._predict,
            *(checkpoints, self.tta.value, frames, options, self.thresholds),
            _connect={"yielded": self._take},
        )
        self._worker.finished.connect(lambda: self._busy(False))

    def stop(self) -> None:
        """End after the frame that is being computed; what is done stays."""
        if self._worker is not None:
            self._worker.quit()

    def refresh(self) -> None:
        """Show the labels at the thresholds of the sliders: the frame in view now, others next."""
        if not self.fields or self.result is None or self.result not in self._viewer.layers:
            return
        if self._refresher is not None:
            self._refresher.quit()
            self._refresher = None
        shown = self._viewer.dims.current_step[0] if self._source["stack"] else 0
        shown = min(int(shown), len(self.fields) - 1)
        self._put(shown, self.fields[shown].labels(self.thresholds))
        rest = [index for index in range(len(self.fields)) if index != shown]
        if rest:
            thresholds = self.thresholds

            def put(found: tuple[int, NDArray[np.int32]]) -> None:
                if thresholds == self.thresholds:  # else the slider has moved on
                    self._put(*found)

            self._refresher = create_worker(
                _relabel,
                [(index, self.fields[index]) for index in rest],
                thresholds,
                _connect={"yielded": put},
            )

    def _predict(
        self,
        checkpoints: list[Path],
        tta: int,
        frames: list[Any],
        options: dict[str, Any],
        thresholds: Thresholds,
    ) -> Iterator[LiveField | FlowsegError]:
        """In a thread, which may not ask widgets: the flow field of each frame, or an error."""
        try:
            segmenter = self._load(checkpoints, tta)
            for frame in frames:
                found = segmenter.segment(np.asarray(frame), **options)
                field = LiveField(found.flows, found.cellprob)
                field.labels(thresholds)  # so that the window does not wait for it
                yield field
        except Exception as error:
            user_error = as_user_error(error)
            if user_error is None:
                raise
            yield user_error

    def _take(self, found: LiveField | FlowsegError) -> None:
        """In the window's thread: show one more frame, or what is wrong."""
        if isinstance(found, FlowsegError):
            show_error(str(found))
            return
        self.fields.append(found)
        self.progress.value = len(self.fields)
        labels = found.labels(self.thresholds)
        if self.result is None or self.result not in self._viewer.layers:
            shape = (self.progress.max, *labels.shape) if self._source["stack"] else labels.shape
            self.result = self._viewer.add_labels(
                np.zeros(shape, np.int32),
                name=self._source["name"],
                scale=self._source["scale"],
                translate=self._source["translate"],
            )
        self._put(len(self.fields) - 1, labels)
        if self.keep_fields.value:
            self._show_field(found, len(self.fields) - 1)
        if len(self.fields) == self.progress.max:
            show_info(f"{self._source['name']}: {self.count.value}")

    def _show_field(self, field: LiveField, index: int) -> None:
        """Add the flow field of a frame as layers below its labels."""
        frame = f" {index}" if self._source["stack"] else ""
        place = {key: self._source[key][-2:] for key in ("scale", "translate")}
        for name, values in (
            ("cellprob", field.cellprob),
            ("flow dy", field.flows[0]),
            ("flow dx", field.flows[1]),
        ):
            colours = "magma" if name == "cellprob" else "twilight_shifted"
            limits = (-8.0, 8.0) if name == "cellprob" else (-1.0, 1.0)
            self._viewer.add_image(
                values,
                name=f"{name}{frame}",
                colormap=colours,
                contrast_limits=limits,
                visible=False,
                **place,
            )

    def _put(self, index: int, labels: NDArray[np.int32]) -> None:
        """Set the labels of one frame."""
        if self.result is None or self.result not in self._viewer.layers:
            return
        if self._source["stack"]:
            self.result.data[index] = labels
            self.result.refresh()
            self.count.value = f"{int(labels.max())} in frame {index}"
            return
        self.result.data = labels
        cells = measure_cells(labels)
        # napari's table of a layer: row 0 is the background.
        self.result.features = {
            "index": np.r_[0, cells["cell"]],
            **{
                name: np.r_[np.nan, cells[name]]
                for name in ("area", "x", "y", "width", "height", "eccentricity")
            },
        }
        self.count.value = str(len(cells["cell"]))

    def _checkpoints(self) -> list[Path]:
        other = self.checkpoint.value
        return find_models([self.model.value if other is None else other])

    def _load(self, paths: list[Path], tta: int) -> Segmenter:
        key = (tuple((path, path.stat().st_mtime_ns) for path in paths), tta)
        if self._segmenter is None or self._segmenter[0] != key:
            self._segmenter = key, Segmenter.load(paths, tta=tta)
        return self._segmenter[1]

    def _busy(self, busy: bool) -> None:
        self.run.enabled, self.cancel.enabled = not busy, busy


def frames_of(layer: Image) -> list[Any]:
    """The images of a layer: itself, or its frames along the first axis.

    Raises
    ------
    FlowsegError
        For a layer of other axes than (H, W) or (T, H, W), each with colours or without.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    if layer.ndim == 2:
        return [data]
    if layer.ndim == 3:
        return [data[index] for index in range(data.shape[0])]
    raise FlowsegError(
        f"the layer {layer.name!r} has {layer.ndim} axes, and not those of an image or a stack",
        remedy="split it along an axis",
    )


def length_of(shapes: Shapes, image: Image) -> float:
    """The length of the last shape of a layer, from its first to its last corner, in pixels.

    Raises
    ------
    FlowsegError
        Where there is no shape.
    """
    if not len(shapes.data):
        raise FlowsegError(f"the layer {shapes.name!r} holds no line", remedy="draw one")
    ends = [shapes.data_to_world(shapes.data[-1][at])[-2:] for at in (0, -1)]
    return float(np.linalg.norm((np.array(ends[1]) - ends[0]) / np.array(image.scale[-2:])))


def model_names(_: Any = None) -> list[str]:
    """Names of shipped models, and folders of finished runs, the latest first."""
    runs = find_finished(Path("runs"), TRAINING, CROSS_VALIDATION)
    return [*(str(run) for run in reversed(runs)), *shipped_models()]


def _relabel(
    fields: list[tuple[int, LiveField]], thresholds: Thresholds
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    for index, field in fields:
        yield index, field.labels(thresholds)
