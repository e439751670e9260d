"""Settings: frozen dataclasses hold the defaults, YAML files hold what differs from them.

Precedence: defaults here < the cell type's file in ``configs/`` < the machine's in
``configs/recipes/`` < ``--config`` < ``--set``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flowseg.errors import FlowsegError

__all__ = [
    "TTA_CHOICES",
    "AugmentConfig",
    "CellTypeSettings",
    "Config",
    "DataConfig",
    "NetworkConfig",
    "ScheduleConfig",
]

TTA_CHOICES = (1, 2, 4, 8)
"""How many views may be averaged: as it is; and upside down; all quarter turns; and mirrored."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
MaskRepair = Literal["none", "fix", "drop"]


@dataclass(frozen=True)
class CellTypeSettings:
    """What one cell type needs; travels on the checkpoint's card.

    Attributes
    ----------
    diameter : float or None
        Mean cell diameter in pixels of the original images; None: measured from the masks.
    cellprob_threshold : float
        Pixels whose cellprob (a logit) exceeds it belong to cells.
    flow_threshold : float
        Instances whose mean squared flow error exceeds it are dropped; 0 keeps all.
    min_size : int
        Instances of fewer pixels are dropped.
    """

    diameter: float | None = None
    cellprob_threshold: float = 0.0
    flow_threshold: float = 0.4
    min_size: int = 15

    def __post_init__(self) -> None:
        known = self.diameter is not None
        _require(not known or 0 < (self.diameter or 0) < math.inf, "diameter", "positive")
        _require(math.isfinite(self.cellprob_threshold), "cellprob_threshold", "a number")
        _require(0 <= self.flow_threshold < math.inf, "flow_threshold", "0 or more")
        _require(self.min_size >= 0, "min_size", "0 or more")


@dataclass(frozen=True)
class DataConfig:
    """Which images take part, and how they are split.

    Attributes
    ----------
    folds : int
        Number of folds, grouped by well and stratified by cell type.
    fold : int
        The fold kept for validation, 0 ... folds - 1.
    split_seed : int
        Seed of the split; the same for all runs that are to be compared.
    include_flawed : bool
        Also use the competition's images that are known to be annotated wrongly.
    mask_repair : {"none", "fix", "drop"}
        What to do with broken masks (holes, several pieces, duplicates) of training images; see
        :mod:`flowseg.data.mask_repair`. Scores are always against the truth as it was annotated.
    cache_mb : int
        Memory for decoded images and labels, in MB for each loading process. An image of the
        competition takes 3; those that find no room are decoded for each crop.
    extra : str or None
        A folder of more images that are trained on and never validated on, such as those of
        ``flowseg pseudo-label``; ``{fold}`` in it stands for the number of the fold.
    extra_weight : float
        Crops of extra images for each crop of the others.
    """

    folds: int = 5
    fold: int = 0
    split_seed: int = 42
    include_flawed: bool = False
    mask_repair: MaskRepair = "none"
    cache_mb: int = 1024
    extra: str | None = None
    extra_weight: float = 0.5

    def __post_init__(self) -> None:
        _require(self.folds >= 2, "folds", "2 or more")
        last = self.folds - 1
        _require(0 <= self.fold <= last, "fold", f"0 to {last} with {self.folds} folds")
        _require(self.cache_mb >= 0, "cache_mb", "0 or more")
        _require(0 <= self.extra_weight < math.inf, "extra_weight", "0 or more")


@dataclass(frozen=True)
class NetworkConfig:
    """Every architecture number; travels with the checkpoint and is never guessed.

    Attributes
    ----------
    channels : tuple of int
        Feature channels of each level, finest first.
    blocks_per_level : int
        Residual blocks a level on the way down (one a level on the way up).
    flow_scale : float
        The network regresses ``flow_scale`` times the unit flows.
    diameter : float
        Images are rescaled so that a cell type's mean diameter becomes this many pixels.
    """

    channels: tuple[int, ...] = (32, 64, 128, 256)
    blocks_per_level: int = 2
    flow_scale: float = 5.0
    target_diameter: float = 30.0

    def __post_init__(self) -> None:
        # upper bounds: a stranger's card may ask for more than any memory holds
        _require(2 <= len(self.channels) <= 8, "channels", "two to eight levels")
        _require(all(0 < c <= 8192 for c in self.channels), "channels", "from 1 to 8192")
        _require(1 <= self.blocks_per_level <= 64, "blocks_per_level", "from 1 to 64")
        _require(self.flow_scale > 0, "flow_scale", "positive")
        _require(self.target_diameter > 0, "target_diameter", "positive")


@dataclass(frozen=True)
class AugmentConfig:
    """How crops vary.

    Attributes
    ----------
    crop_size : int
        Edge of the square training crops, in rescaled pixels.
    flip : bool
        Mirror half of the crops.
    rotate : bool
        Turn crops by any angle.
    scale : float
        Crops are rescaled by up to this factor either way.
    swap_scale_fraction : float
        Share of crops rescaled as if they were of another cell type, so that the network learns
        to name the type of an image before its scale is known.
    paste_fraction : float
        Share of the cells of another crop, of a labelled image of the same cell type, that are
        pasted over a crop. Each crop then takes two images: see ``data.cache_mb``.
    contrast, brightness : float
        Largest relative change of contrast, largest shift of normalised intensity.
    gamma : float
        Intensities are raised to a power of up to this factor either way.
    blur, noise : float
        Largest standard deviation of blur (pixels) and of noise (normalised intensity).
    """

    crop_size: int = 224
    flip: bool = True
    rotate: bool = True
    scale: float = 1.25
    swap_scale_fraction: float = 0.1
    paste_fraction: float = 0.3
    contrast: float = 0.25
    brightness: float = 0.15
    gamma: float = 1.25
    blur: float = 0.7
    noise: float = 0.04

    def __post_init__(self) -> None:
        _require(self.crop_size >= 32, "crop_size", "32 or more")
        _require(self.scale >= 1, "scale", "1 or more")
        _require(self.gamma >= 1, "gamma", "1 or more")
        for name in ("swap_scale_fraction", "paste_fraction"):
            _require(0 <= getattr(self, name) <= 1, name, "from 0 to 1")
        _require(0 <= self.contrast < 1, "contrast", "from 0 to below 1")
        for name in ("brightness", "blur", "noise"):
            _require(getattr(self, name) >= 0, name, "0 or more")


@dataclass(frozen=True)
class ScheduleConfig:
    """How long and how fast one stage learns.

    Attributes
    ----------
    epochs : int
        Number of epochs.
    crops_per_epoch : int
        Crops an epoch, whatever the number of images.
    balance : float
        0: every image is seen equally often; 1: every cell type is; between them in between.
    batch_size : int
        Crops a step in each process.
    learning_rate : float
        Peak rate of Muon and AdamW, reached after the warm-up, then lowered to zero on a cosine.
    weight_decay : float
        Of Muon and AdamW.
    warmup_fraction : float
        Share of all steps in which the rate rises.
    ema_decay : float
        Decay of the running mean of the weights, which is what is validated and saved.
    validate_every : int
        Epochs between two validations; the last epoch is always validated.
    workers : int or None
        Loader processes; None: 0 on a CPU, else up to 8.
    precision : {"auto", "float32", "bfloat16", "float16"}
        "auto" takes the fastest that the device computes natively and safely.
    compile : bool
        Whether torch.compile translates the network first; needs a C++ compiler, takes a minute,
        and changes the last bits of the results.
    """

    epochs: int = 8
    crops_per_epoch: int = 640
    balance: float = 0.0
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup_fraction: float = 0.05
    ema_decay: float = 0.99
    validate_every: int = 1
    workers: int | None = None
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "crops_per_epoch", "batch_size", "validate_every"):
            _require(getattr(self, name) >= 1, name, "1 or more")
        _require(0 <= self.balance <= 1, "balance", "from 0 to 1")
        _require(self.learning_rate > 0, "learning_rate", "positive")
        _require(self.weight_decay >= 0, "weight_decay", "0 or more")
        _require(0 <= self.warmup_fraction < 1, "warmup_fraction", "from 0 to below 1")
        _require(0 <= self.ema_decay < 1, "ema_decay", "from 0 to below 1")
        _require(self.workers is None or self.workers >= 0, "workers", "0 or more, or null")


@dataclass(frozen=True)
class Config:
    """All settings of one run.

    Attributes
    ----------
    cell_types : mapping of str to CellType
        The cell types to train on and what each needs.
    seed : int
        Seed of the weights and of the order and variation of the crops.
    tta : {1, 2, 4, 8}
        Views of each image that are averaged where a cross validation scores it and tunes
        thresholds; ``predict --tta`` is the same for prediction.
    data, network, augment, training : dataclasses
        See there.
    pretraining : ScheduleConfig
        The schedule of the first stage, on LIVECell.
    """

    cell_types: Mapping[str, CellTypeSettings] = field(default_factory=dict)
    seed: int = 42
    tta: int = 4
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: ScheduleConfig = field(default_factory=ScheduleConfig)
    pretraining: ScheduleConfig = field(
        # longer than training: all folds share it
        default_factory=lambda: ScheduleConfig(epochs=12, balance=1.0)
    )

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, "seed", "0 or more, and less than 2**63")
        _require(self.tta in TTA_CHOICES, "tta", "1, 2, 4 or 8")


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise FlowsegError(f"the setting {name!r} must be {expected}")
