"""What a person does in napari's window, each function in a process of its own.

xvfb-run -a python tests/napari/window.py segment
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication

from flowseg import Segmenter, competition_score
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.io.images import read_image
from flowseg.metrics.competition import HIT, MISSED, SPLIT, SPURIOUS
from flowseg.napari.learn import next_run
from flowseg.synthetic.render import draw_neurons

PATIENCE = 120


def wait_until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Let the window work until something is so."""
    end = time.monotonic() + patience
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)
        assert time.monotonic() < end, "waited too long"


def open_widget(viewer: napari.Viewer) -> Any:
    return viewer.window.add_plugin_dock_widget("flowseg", "Segment")[1]


def run(widget: Any) -> None:
    widget.diameter.value = 17
    widget.run.clicked.emit(True)
    wait_until(lambda: widget.run.enabled)


def last_message() -> str:
    return str(notification_manager.records[-1].message)


def expected(image: Any, widget: Any) -> Any:
    shown = widget.thresholds
    return (
        Segmenter.load("phase")
        .segment(
            image,
            diameter=17,
            cellprob_threshold=shown.cellprob_threshold,
            flow_threshold=shown.flow_threshold,
            min_size=shown.min_size,
            exclude_border=shown.exclude_border,
        )
        .labels
    )


def segment(viewer: napari.Viewer, folder: Path) -> None:
    """Open the sample, segment it, move each slider, save."""
    viewer.open_sample("flowseg", "neurons")
    widget = open_widget(viewer)
    assert widget.model.choices[-1] == "phase"
    assert widget.cell_type.choices == ("cell",)
    assert widget.cellprob_threshold.value == -2
    run(widget)
    image = viewer.layers[0].data
    assert widget.result.data.max() > 100
    np.testing.assert_array_equal(widget.result.data, expected(image, widget))
    for slider, value in (
        (widget.cellprob_threshold, 0.5),
        (widget.flow_threshold, 0.2),
        (widget.min_size, 150),
        (widget.exclude_border, True),
    ):
        before = widget.result.data
        slider.value = value
        assert (widget.result.data != before).any(), slider.label
    np.testing.assert_array_equal(widget.result.data, expected(image, widget))
    cells = int(widget.result.data.max())
    assert len(widget.result.features) == cells + 1
    assert widget.count.value == str(cells)
    file = folder / "cells_seg.npy"
    assert widget.result.save(str(file)) == [str(file)]
    viewer.open(str(file), plugin="flowseg")
    np.testing.assert_array_equal(viewer.layers[-1].data, widget.result.data)
    line = [[100, 50], [100, 67]]
    widget.line.value = viewer.add_shapes([line], shape_type="line", name="length")
    widget.keep_fields.value = True
    widget.diameter.value = 90
    widget.run.clicked.emit(True)
    wait_until(lambda: widget.run.enabled)
    np.testing.assert_array_equal(widget.result.data, expected(image, widget))
    cellprob, dy = (viewer.layers[name].data for name in ("cellprob", "flow dy"))
    assert cellprob.shape == dy.shape == image.shape
    assert (cellprob[widget.result.data > 0] > widget.cellprob_threshold.value).mean() > 0.95
    widget.line.value.data = []
    widget.run.clicked.emit(True)
    assert "holds no line" in last_message()


def stack(viewer: napari.Viewer, folder: Path) -> None:
    """All frames follow the sliders, and a cancelled run keeps what is done."""
    rng = np.random.default_rng(3)
    frames = np.stack([draw_neurons((128, 160), "shsy5y", rng)[0] for _ in range(4)])
    viewer.add_image(frames, scale=(1, 0.5, 0.5))
    widget = open_widget(viewer)
    run(widget)
    assert widget.result.data.shape == frames.shape
    assert widget.result.scale.tolist() == [1, 0.5, 0.5]
    widget.cellprob_threshold.value = 1.0
    found = [expected(frame, widget) for frame in frames]
    wait_until(lambda: np.array_equal(widget.result.data, found))
    viewer.layers.clear()
    viewer.add_image(np.concatenate([frames] * 10))  # more than are done before the next line
    widget.run.clicked.emit(True)
    wait_until(lambda: widget.fields)
    widget.cancel.clicked.emit(True)
    wait_until(lambda: widget.run.enabled)
    assert 1 <= len(widget.fields) < 40
    assert widget.result.data[0].max() > 0


def bad_input(viewer: napari.Viewer, folder: Path) -> None:
    """A message for each, and the window goes on."""
    widget = open_widget(viewer)
    run(widget)
    assert "there is no image layer" in last_message()
    viewer.add_image(np.zeros((2, 2, 40, 40)), name="four")
    run(widget)
    assert "has 4 axes" in last_message()
    viewer.layers.clear()
    viewer.add_image(np.full((64, 64), np.nan), name="nothing")
    run(widget)
    assert last_message() == "nothing cells: 0"
    viewer.layers.clear()
    image = draw_neurons((160, 160), "shsy5y", np.random.default_rng(0))[0]
    viewer.add_image(np.dstack([image] * 3), rgb=True)
    widget.run.clicked.emit(True)
    viewer.layers.clear()  # while it runs
    wait_until(lambda: widget.run.enabled and widget.result is not None)
    assert widget.result.data.max() > 0
    viewer.layers.clear()
    widget.min_size.value = 20
    broken = folder / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint")
    widget.checkpoint.value = broken
    assert "broken.safetensors" in last_message()
    viewer.add_image(image)
    run(widget)
    assert "broken.safetensors" in last_message()


def compare(viewer: napari.Viewer, folder: Path) -> None:
    """Two layers as hits and mistakes, and from one mistake to the next."""
    truth = np.zeros((60, 90), np.int32)
    truth[5:15, 5:15], truth[5:15, 40:60], truth[40:50, 70:80] = 3, 5, 9
    pred = np.zeros_like(truth)
    pred[5:15, 6:15], pred[5:15, 40:49], pred[5:15, 50:60], pred[40:50, 5:15] = 1, 2, 3, 4
    viewer.add_labels(truth, name="truth", scale=(2, 2))
    viewer.add_labels(pred, name="found", scale=(2, 2))
    widget = viewer.window.add_plugin_dock_widget("flowseg", "Compare")[1]
    widget.truth.value, widget.prediction.value = viewer.layers["truth"], viewer.layers["found"]
    widget.run.clicked.emit(True)
    assert float(widget.score.value) == round(competition_score(truth, pred), 3)
    assert widget.summary.value == "1 hit, 1 missed, 1 spurious, 1 split, 0 merged"
    assert widget.result.data[10, 10] == 1 + HIT
    assert widget.result.data[45, 75] == 1 + MISSED
    assert widget.result.data[45, 10] == 1 + SPURIOUS
    assert widget.result.data[10, 45] == 1 + SPLIT
    seen = []
    for _ in range(4):
        widget.next.clicked.emit(True)
        seen.append(viewer.scene.camera.center[-2:])
    assert seen == [(19, 99), (89, 19), (89, 149), (19, 99)]
    widget.run.clicked.emit(True)
    assert len(viewer.layers) == 3
    viewer.add_labels(np.zeros((3, 60, 90), np.int32), name="stack")
    widget.truth.value = viewer.layers["stack"]
    widget.run.clicked.emit(True)
    assert "more than two axes" in last_message()
    widget.truth.value = viewer.add_labels(np.zeros((9, 9), np.int32), name="small")
    widget.run.clicked.emit(True)
    assert "the truth has shape (9, 9)" in last_message()


def learn(viewer: napari.Viewer, folder: Path) -> None:
    """Save two corrected images, train for a minute with a stop in between, use the model."""
    os.chdir(folder)
    segmenting = open_widget(viewer)
    widget = viewer.window.add_plugin_dock_widget("flowseg", "Correct and learn")[1]
    widget.save.clicked.emit(True)
    assert "choose an image layer" in last_message()
    rng = np.random.default_rng(5)
    image, masks = draw_neurons((200, 240), "shsy5y", rng)
    labels = masks_to_labels(masks)
    labels[0:2, 0:2] = labels.max() + 1  # a slip of the brush
    viewer.add_image(image, name="dish")
    viewer.add_labels(labels, name="cells")
    rectangle = viewer.add_shapes([[[0, 0], [0, 119.6], [200, 119.6], [200, 0]]], name="part")
    widget.region.value = rectangle
    widget.save.clicked.emit(True)
    assert "2 of fewer than" in last_message()  # and a cell that the rectangle cuts
    assert read_image(folder / "annotated" / "dish.tif").shape == (200, 120)
    widget.train.clicked.emit(True)
    wait_until(lambda: widget.train.enabled)
    assert "label one more" in last_message()
    rectangle.data = [[[0, 120], [0, 240], [200, 240], [200, 120]]]
    widget.save.clicked.emit(True)
    widget.save.clicked.emit(True)  # the same once more replaces itself
    saved = sorted(path.name for path in (folder / "annotated").iterdir())
    assert saved == ["dish.tif", "dish_2.tif", "dish_2_masks.tif", "dish_masks.tif"]
    widget.minutes.value = 1
    widget.train.clicked.emit(True)
    wait_until(lambda: "step" in widget.status.value, 200)
    widget.cancel.clicked.emit(True)
    wait_until(lambda: widget.train.enabled)
    assert "was stopped" in last_message(), last_message()
    widget.train.clicked.emit(True)
    wait_until(lambda: widget.train.enabled, 300)
    assert "validation score" in last_message(), last_message()
    segmenting.model.value = str(Path("runs") / "corrected-1")
    run(segmenting)
    assert segmenting.result.data.max() > 3
    assert next_run(Path("runs")).name == "corrected-2"
    widget.train.clicked.emit(True)
    wait_until(lambda: "step" in widget.status.value, 200)
    widget.cancel.clicked.emit(True)
    wait_until(lambda: widget.train.enabled)
    widget.save.clicked.emit(True)  # so that the run that was stopped is of other images
    widget.train.clicked.emit(True)
    wait_until(lambda: "step" in widget.status.value, 200)
    assert sorted(path.name for path in Path("runs").iterdir() if path.name[0] == "c") == [
        f"corrected-{number}" for number in (1, 2, 3)
    ]
    widget.cancel.clicked.emit(True)
    wait_until(lambda: widget.train.enabled)
    assert "was stopped" in last_message()


def memory(viewer: napari.Viewer, folder: Path) -> None:
    """Fifty runs in one window; prints the growth of the last forty in MiB."""
    import resource  # not on Windows

    viewer.add_image(draw_neurons((260, 352), "shsy5y", np.random.default_rng(0))[0])
    widget = open_widget(viewer)
    peaks = []
    for _ in range(50):
        run(widget)
        viewer.layers.remove(widget.result)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"{peaks[9]:.0f} MiB after 10 runs, {peaks[-1]:.0f} after 50")
    assert peaks[-1] - peaks[9] < 100


def times(viewer: napari.Viewer, folder: Path) -> None:
    """Prints the time from a slider's value to the labels, in ms."""
    viewer.open_sample("flowseg", "neurons")
    widget = open_widget(viewer)
    run(widget)
    for slider, values in (
        (widget.cellprob_threshold, np.linspace(-3, 2, 21)),
        (widget.flow_threshold, np.linspace(0.1, 1, 21)),
        (widget.min_size, np.arange(20, 230, 10)),
    ):
        taken = []
        for value in values:
            start = time.perf_counter()
            slider.value = value.item()
            taken.append(1000 * (time.perf_counter() - start))
        cells = widget.count.value
        print(f"{slider.label}: {np.median(taken):.0f}, at most {max(taken):.0f} ms; {cells} cells")


def pictures(viewer: napari.Viewer, folder: Path) -> None:
    """Takes the pictures of docs/napari.md."""
    viewer.window.resize(1280, 800)
    viewer.open_sample("flowseg", "neurons")
    widget = open_widget(viewer)
    run(widget)
    for name, level in (("segment", -2.0), ("slider", 3.0)):
        widget.cellprob_threshold.value = level
        for _ in range(50):
            QApplication.processEvents()
            time.sleep(0.01)
        viewer.window.screenshot(str(folder / f"napari_{name}.png"), canvas_only=False, flash=False)
    truth, found = viewer.layers[-1], widget.result.data
    widget.cellprob_threshold.value = -3.0
    viewer.add_labels(found.copy(), name="at 3.0", visible=False)
    truth.visible = False
    other = viewer.window.add_plugin_dock_widget("flowseg", "Compare")[1]
    other.truth.value, other.prediction.value = truth, viewer.layers["at 3.0"]
    other.run.clicked.emit(True)
    other.next.clicked.emit(True)
    for _ in range(50):
        QApplication.processEvents()
        time.sleep(0.01)
    name = str(folder / "napari_compare.png")
    viewer.window.screenshot(name, canvas_only=False, flash=False)


def main(name: str, folder: Path) -> None:
    faulthandler.dump_traceback_later(540, exit=True)
    viewer = napari.Viewer(show=False)
    globals()[name](viewer, folder)
    errors = [one for one in notification_manager.records if hasattr(one, "exception")]
    assert not errors, errors
    viewer.close()
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path())
