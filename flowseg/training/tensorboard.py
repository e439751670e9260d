"""TensorBoard events of a run: losses, scores, learning rate, overlays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flowseg.errors import require
from flowseg.io.images import read_image
from flowseg.training.run_folder import TENSORBOARD

_GROUPS = {"loss": "losses", "score": "scores"}


def load_writer() -> Any:
    """TensorBoard's writer class.

    Raises
    ------
    FlowsegError
        If the package is missing.
    """
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


class Board:
    """Writes the rows of `metrics.csv` and the overlays as TensorBoard events.

    Parameters
    ----------
    run : Path
        The run's folder; the events go into ``tensorboard/`` in it.
    """

    def __init__(self, run: Path) -> None:
        self._new = partial(load_writer(), str(run / TENSORBOARD))
        self._writer: Any = None

    def add_epoch(self, row: Mapping[str, float]) -> None:
        """Log a row of `metrics.csv`; after a resume a repeated epoch replaces the earlier one."""
        if self._writer is None:
            # Hides this and later epochs of earlier writers.
            self._writer = self._new(purge_step=int(row["epoch"]))
        for name, value in row.items():
            if name != "epoch" and math.isfinite(value):
                group = _GROUPS.get(name.split("_")[0], "schedule")
                self._writer.add_scalar(f"{group}/{name}", value, int(row["epoch"]))
        self._writer.flush()

    def close(self, overlays: Path, epoch: int) -> None:
        """Log the overlays of a folder, and close the writer."""
        self._writer = self._writer or self._new()
        for path in sorted(overlays.glob("*.png")):
            overlay = read_image(path)
            self._writer.add_image(f"overlays/{path.stem}", overlay, epoch, dataformats="HWC")
        self._writer.close()
