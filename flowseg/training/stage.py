"""A stage of training: its data and settings, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch.utils.data import Dataset

from flowseg.config.schema import Config, ScheduleConfig
from flowseg.data.record import Record
from flowseg.training.batches import Batch, CropDataset
from flowseg.training.run_folder import DECODED, StageName


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Data and settings of one stage of training; its images are disjoint."""

    folder: Path
    """Where checkpoints and metrics go; it exists."""
    config: Config
    """All settings; its cell types have known diameters, and their order numbers them."""
    schedule: ScheduleConfig
    """The one of `config` that this stage follows."""
    training: Sequence[Record]
    validation: Sequence[Record]
    """Where there is none the last weights are the best."""
    extra: Sequence[Record] = ()
    provenance: Mapping[str, Any]
    """Goes on the card; its ``"stage"`` is the stage's name."""
    dataset: Dataset[Batch] | None = None
    """An endless sequence of crops in place of those of the images `training` and `extra`."""
    runs: int = 1
    """How many runs of this length are to come, this one included."""
    on_epoch: Callable[[Mapping[str, float]], None] | None = None
    """Called with the row of `metrics.csv` of each epoch."""

    @property
    def name(self) -> StageName:
        """Which stage it is."""
        return cast(StageName, self.provenance["stage"])

    def crops(self) -> Dataset[Batch]:
        """The endless sequence of crops to train on."""
        if self.dataset is not None:
            return self.dataset
        decoded = self.folder.parent / DECODED
        return CropDataset(self.training, self.config, self.extra, self.schedule.balance, decoded)


@dataclass(frozen=True)
class StageResult:
    """How a stage ended; the score is NaN where nothing was validated."""

    score: float
    epoch: int
    seconds: float
