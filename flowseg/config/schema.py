"""Settings: the types, defaults and meaning of each; pydantic validates them.

Precedence: defaults here < the cell type's file in ``configs/`` < the recipe's in
``configs/recipes/`` < ``--config`` < ``--set``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, ValidationInfo, field_validator
from pydantic.types import Strict
from pydantic_core import PydanticCustomError

from flowseg.config.choices import TTA_CHOICES, Tta
from flowseg.config.validation import Settings, settings

Precision = Literal["auto", "float32", "bfloat16", "float16"]
MaskRepair = Literal["none", "fix", "drop"]

_Float = Annotated[float, Strict()]
_Percentile = Annotated[_Float, Field(ge=0, le=100)]
_Positive = Annotated[_Float, Field(gt=0)]
_NonNegative = Annotated[_Float, Field(ge=0)]
_Fraction = Annotated[_Float, Field(ge=0, le=1)]
_BelowOne = Annotated[_Float, Field(ge=0, lt=1)]
_Factor = Annotated[_Float, Field(ge=1)]
_Index = Annotated[StrictInt, Field(ge=0)]
_Count = Annotated[StrictInt, Field(ge=1)]


@settings
class CellTypeSettings(Settings):
    """Scale and thresholds of one cell type; travels on the checkpoint's card."""

    diameter: _Positive | None = None
    """Mean cell diameter in pixels of the original images; null: measured from the masks."""
    cellprob_threshold: _Float = 0.0
    """Pixels whose cellprob (a logit) exceeds it belong to cells."""
    flow_threshold: _NonNegative = 0.4
    """Masks whose mean squared flow error exceeds it are dropped; 0 keeps all."""
    min_size: _Index = 15
    """Masks of fewer pixels are dropped."""


@settings
class DataConfig(Settings):
    """Which images take part, and how they are split."""

    folds: Annotated[StrictInt, Field(ge=2)] = 5
    """Number of folds, grouped by well and stratified by cell type."""
    fold: StrictInt = 0
    """The fold held out for validation, 0 ... folds - 1."""
    split_seed: StrictInt = 42
    """Seed of the split; the same for all runs that are to be compared."""
    include_flawed: StrictBool = False
    """Also use images of the competition and of LIVECell known to be annotated wrongly,
    incompletely or twice over."""
    livecell_by_well: StrictBool = False
    """Pre-training on LIVECell: of each cell type validate one well that is not trained on. The
    official validation images are of wells that are trained on."""
    mask_repair: MaskRepair = "none"
    """Broken masks (holes, several components, duplicates) of training images: leave, fix or drop
    them. Scores are always against the masks as annotated."""
    cache_mb: _Index = 1024
    """Memory for decoded images and labels, in MB for each loader process. An image of the
    competition takes 3. Where not all fit they are also kept in the folder `decoded` beside the
    run, where it takes 1.1."""
    extra: str | None = None
    """A folder of more images that are trained on and never validated on, such as those of
    flowseg pseudo-label; {fold} in it stands for the number of the fold."""
    extra_of_validated_wells: StrictBool = False
    """Also train on extra images whose names show that they are of a well, movie or picture that is
    validated on."""
    extra_weight: _NonNegative = 0.5
    """Crops of extra images for each crop of the others."""

    @field_validator("fold")
    @classmethod
    def _check_fold(cls, fold: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds", fold + 1)  # missing where it is at fault itself
        if not 0 <= fold < folds:
            raise PydanticCustomError("fold", f"0 to {folds - 1} with {folds} folds")
        return fold


@settings
class NetworkConfig(Settings):
    """Every architecture number; travels on the checkpoint's card and is never guessed."""

    kind: Literal["unet", "cellpose"] = "unet"
    """This package's residual U-Net, or that of Cellpose 1 to 3, whose models can be used."""
    input_channels: Annotated[StrictInt, Field(ge=1, le=16)] = 1
    """Channels of an image; only of kind cellpose more than the grey one: also nuclei."""
    # upper bounds: a stranger's card may ask for more than any memory holds
    channels: Annotated[
        tuple[Annotated[StrictInt, Field(ge=1, le=8192)], ...], Field(min_length=2, max_length=8)
    ] = (48, 96, 160, 240)
    """Feature channels of each level, finest first."""
    stem_stride: Literal[1, 2, 4] = 2
    """Pixels of an image along each edge that are one of the finest level; for kind unet."""
    blocks_per_level: Annotated[StrictInt, Field(ge=1, le=64)] = 2
    """Residual blocks a level in the encoder (the decoder has one); for kind unet."""
    flow_scale: _Positive = 5.0
    """The network regresses this times the unit flows."""
    target_diameter: _Positive = 30.0
    """Images are rescaled so that a cell type's mean diameter becomes this many pixels."""

    @field_validator("stem_stride")
    @classmethod
    def _check_stem(cls, stride: int, info: ValidationInfo) -> int:
        if stride != 1 and info.data.get("kind") == "cellpose":
            raise PydanticCustomError("stem", "1 for a network of kind cellpose")
        return stride

    @field_validator("input_channels")
    @classmethod
    def _check_channels(cls, channels: int, info: ValidationInfo) -> int:
        if channels != 1 and info.data.get("kind") == "unet":
            raise PydanticCustomError("channels", "1 for a network of kind unet")
        return channels


@settings
class NormalizationConfig(Settings):
    """Which intensities become 0 and 1, in training and prediction; travels on the card."""

    percentiles: tuple[_Percentile, _Percentile] = (1.0, 99.0)
    """Of each image; NaN, flat padding and flat saturated marks do not count."""
    range: tuple[_Float, _Float] | None = None
    """Two intensities as stored, the same for all images, in place of the percentiles."""

    @field_validator("percentiles", "range")
    @classmethod
    def _check_order(cls, pair: tuple[float, float] | None) -> tuple[float, float] | None:
        if pair is not None and not pair[0] < pair[1]:
            raise PydanticCustomError("order", "two numbers, the lower one first")
        return pair


@settings
class AugmentConfig(Settings):
    """Data augmentation of the training crops."""

    crop_size: Annotated[StrictInt, Field(ge=32)] = 224
    """Edge of the square crops, in rescaled pixels."""
    flip: StrictBool = True
    """Mirror half of the crops."""
    rotate: StrictBool = True
    """Rotate crops by any angle."""
    scale: _Factor = 1.25
    """Crops are rescaled by up to this factor either way."""
    swap_scale_fraction: _Fraction = 0.1
    """Share of crops rescaled as if they were of another cell type, so that the network learns to
    classify the cell type of an image before its scale is known."""
    paste_fraction: _Fraction = 0.3
    """Copy-paste: share of the cells of another crop, of a labelled image of the same cell type,
    that are pasted over a crop. Each crop then takes two images: see data.cache_mb."""
    padding_fraction: _Fraction = 0.0
    """Share of crops with a flat frame, or seen through a round field of view, as some microscopes
    and stitching programs save them."""
    contrast: _BelowOne = 0.25
    """Largest relative change of contrast."""
    brightness: _NonNegative = 0.15
    """Largest shift of the normalised intensity."""
    gamma: _Factor = 1.25
    """Intensities are raised to a power of up to this factor either way."""
    blur: _NonNegative = 0.7
    """Largest standard deviation of the Gaussian blur, in pixels."""
    noise: _NonNegative = 0.04
    """Largest standard deviation of the noise, in normalised intensity."""


@settings
class ScheduleConfig(Settings):
    """Length, batches and learning rate of one training stage."""

    epochs: _Count = 16
    """Number of epochs."""
    crops_per_epoch: _Count = 640
    """Crops an epoch, whatever the number of images."""
    balance: _Fraction = 0.0
    """0: every image is seen equally often; 1: every cell type is; between them in between."""
    batch_size: _Count = 8
    """Crops a step in each process."""
    learning_rate: _Positive = 2e-3
    """Peak rate of Muon and AdamW, reached after the warm-up, then lowered to zero on a cosine."""
    weight_decay: _NonNegative = 1e-2
    """Of Muon and AdamW."""
    warmup_fraction: _BelowOne = 0.05
    """Share of all steps in which the rate rises."""
    ema_decay: _BelowOne = 0.99
    """Decay of the exponential moving average of the weights, which is validated and saved."""
    validate_every: _Count = 1
    """Epochs between two validations; the last epoch is always validated."""
    save_minutes: _Positive = 10.0
    """Minutes after which the state is saved within an epoch as well, so that a machine that is
    taken away loses no more; it may differ when a run is resumed."""
    workers: _Index | None = None
    """Loader processes; null: 0 on a CPU, else one for each core but two."""
    precision: Precision = "auto"
    """Number type of the convolutions; auto takes the fastest that the device computes natively
    and safely."""
    compile: StrictBool = False
    """Compile the network with torch.compile; needs a C++ compiler, takes a minute, and changes
    the last bits of the results."""


def _check_tta(value: object) -> object:
    if isinstance(value, bool) or value not in TTA_CHOICES:  # for pydantic, true is 1 here
        raise PydanticCustomError("tta", "1, 2, 4 or 8")
    return value


@settings
class Config(Settings):
    """All settings of one run."""

    cell_types: Mapping[Annotated[str, Field(min_length=1)], CellTypeSettings] = Field(
        default_factory=dict, json_schema_extra={"default": {}}
    )
    """The cell types to train on, with the scale and thresholds of each."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 42
    """Seed of the weights and of the order and augmentation of the crops."""
    tta: Annotated[Tta, BeforeValidator(_check_tta)] = 4
    """Test-time augmentation where a cross validation scores images and tunes thresholds: how many
    flipped and rotated views of each are averaged. predict --tta is the same for prediction."""
    time_budget: _Positive | None = None
    """Seconds for the training of all folds: the numbers of epochs follow from the speed of this
    machine. A run's own config has these numbers, and null here."""
    data: DataConfig = DataConfig()
    """Images and folds."""
    normalization: NormalizationConfig = NormalizationConfig()
    """Intensities."""
    network: NetworkConfig = NetworkConfig()
    """The architecture."""
    augment: AugmentConfig = AugmentConfig()
    """Ranges of the data augmentation."""
    training: ScheduleConfig = ScheduleConfig()
    """The schedule of the training proper."""
    # longer than training: all folds share it
    pretraining: ScheduleConfig = ScheduleConfig(epochs=24, balance=1.0)
    """The schedule of the first stage, on LIVECell."""
