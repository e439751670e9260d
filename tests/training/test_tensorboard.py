"""What TensorBoard is told can be read back."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flowseg.errors import FlowsegError
from flowseg.io.images import write_image
from flowseg.training.tensorboard import Board, load_writer


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(FlowsegError, match=r"pip install 'flowseg\[tensorboard\]'"):
        load_writer()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_and_overlays_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "overlays").mkdir()
    write_image(tmp_path / "overlays" / "a.png", np.zeros((8, 9, 3), np.uint8))
    board = Board(tmp_path)
    board.add_epoch({"epoch": 1, "loss": 2.5, "score": float("nan"), "learning_rate": 0.5})
    board.add_epoch({"epoch": 2, "loss": 1.5, "score": 0.25, "learning_rate": 0.25})
    board.close(tmp_path / "overlays", 2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("losses/loss")] == [(1, 2.5), (2, 1.5)]
    assert [(e.step, e.value) for e in events.Scalars("scores/score")] == [(2, 0.25)]
    assert len(events.Scalars("schedule/learning_rate")) == 2
    (image,) = events.Images("overlays/a")
    assert (image.height, image.width) == (8, 9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_epoch_that_is_repeated_replaces_the_one_before(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed = Board(tmp_path)
    killed.add_epoch({"epoch": 1, "loss": 3.0})
    killed.add_epoch({"epoch": 2, "loss": 2.5})
    time.sleep(1.1)  # the names of the files that order them count seconds
    resumed = Board(tmp_path)
    resumed.add_epoch({"epoch": 2, "loss": 2.0})
    resumed.add_epoch({"epoch": 3, "loss": 1.0})
    finished = Board(tmp_path)  # killed once more, in its overlays
    for board in (killed, resumed, finished):
        board.close(tmp_path / "overlays", 1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("losses/loss")]
    assert losses == [(1, 3.0), (2, 2.0), (3, 1.0)]
