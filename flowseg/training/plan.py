"""The plan of a training: images, folds, diameters, network; made before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from flowseg.arrays.labels import equivalent_diameter
from flowseg.config.choices import available_recipes
from flowseg.config.loading import load_config
from flowseg.config.schema import CellTypeSettings, Config, DataConfig, NetworkConfig
from flowseg.data.detect import detect_layout, read_records
from flowseg.data.folds import assign_folds, read_ids, split_fold
from flowseg.data.groups import group_of_name
from flowseg.data.mask_repair import repair
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.io.notes import Note, log_note
from flowseg.io.paths import PathLike, sha256_of
from flowseg.network.build import build_network
from flowseg.network.checkpoint import read_card
from flowseg.network.shipped import DEFAULT_MODEL
from flowseg.training.distributed import from_rank_zero, world_size
from flowseg.training.drawn import DrawnCrops
from flowseg.training.provenance import fingerprint
from flowseg.training.run_folder import checkpoint_at

NONE = "none"
LIVECELL = "livecell"
PHASE_LIVECELL = f"{DEFAULT_MODEL}+{LIVECELL}"
DRAWN = "drawn"

_MEASURED_IMAGES = 50

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The training of one fold; can be pickled."""

    config: Config
    """With the network, the diameters and the number of folds that the data decide."""
    data: Path | None
    """The data folder; None where the images are drawn."""
    pretrain: str
    """none, livecell, phase+livecell, a shipped model's name or the path of a checkpoint."""
    records: list[Record]
    """All images with labels, their masks decoded."""
    folds: dict[str, int]
    """The fold of each of them by its id."""
    training: list[Record]
    """The images of the other folds, with repaired masks."""
    validation: list[Record]
    """Those of this fold."""
    extra: list[Record]
    """More images to train on."""
    runs: int = 1
    """How many folds are to be trained, this one included."""

    @property
    def dataset(self) -> DrawnCrops | None:
        """The crops where they are drawn; None where they are cut from the images."""
        return DrawnCrops(self.config) if self.data is None else None

    @property
    def livecell(self) -> bool:
        """Whether there is a first stage on LIVECell."""
        return self.pretrain in (LIVECELL, PHASE_LIVECELL)

    @property
    def first(self) -> Path | None:
        """The checkpoint that the first stage starts from."""
        return _first(self.pretrain)

    def origin(self, device: torch.device) -> dict[str, Any]:
        """What a resumed run must have in common with the one that it continues."""
        pretrain, first = self.pretrain, self.first
        if first is not None:
            digest = from_rank_zero(lambda: sha256_of(first))
            pretrain = f"{digest}+{LIVECELL}" if self.livecell else digest
        return {
            "pretrain": pretrain,
            "training": fingerprint(self.training),
            "validation": fingerprint(self.validation),
            "extra": fingerprint(self.extra) if self.extra else None,
            "processes": world_size(),
            "device": device.type,
        }


def plan_training(
    config: Config,
    data: PathLike,
    pretrain: str | None = None,
    train_only: PathLike | None = None,
) -> Plan:
    """Read the data and decide how to train on all folds but ``config.data.fold``.

    By default training starts from the model that comes with flowseg where the network is of its
    architecture; a folder of one's own also with another recipe's. The word "drawn" in place of a
    folder stands for drawn images, of one cell type of any diameter.
    """
    if data == DRAWN:
        return _plan_drawn(config, pretrain or NONE, train_only)
    return plan_folds(config, Path(data), pretrain, train_only, only=config.data.fold)[0]


def plan_folds(
    config: Config,
    data: Path,
    pretrain: str | None = None,
    train_only: PathLike | None = None,
    *,
    only: int | None = None,
) -> list[Plan]:
    """As :func:`plan_training`, for every fold or `only` one; data are read and decoded once."""
    if pretrain is None:
        pretrain = _default_start(config, data)
    _check_crop_size(config)
    config = replace(config, network=_inherited(config.network, _first(pretrain)))
    records = [
        replace(record, annotation=record.masks())
        for record in read_records(data, tuple(config.cell_types), config.data.include_flawed)
    ]
    settings = config.data
    train_only_ids = _train_only_ids(records, train_only)
    if detect_layout(data) != "competition":
        records, settings = _as_many_folds_as_groups(records, settings, train_only_ids)
    folds = assign_folds(records, settings.folds, settings.split_seed, train_only_ids)
    repaired = [
        replace(record, annotation=repair(record.masks(), settings.mask_repair))
        for record in records
    ]
    extra: dict[Path, list[Record]] = {}
    plans = []
    for fold in range(settings.folds) if only is None else (only,):
        fold_config = replace(config, data=replace(settings, fold=fold))
        training, _ = split_fold(repaired, folds, fold)
        _, validation = split_fold(records, folds, fold)
        name = settings.extra
        folder = None if name is None else Path(name.replace("{fold}", str(fold)))
        if folder is not None and folder not in extra:
            extra[folder] = _read_extra(folder, fold_config, records)
        cell_types = measure_cells(config.cell_types, training)
        plan = Plan(
            config=replace(fold_config, cell_types=cell_types),
            data=data,
            pretrain=pretrain,
            records=records,
            folds=folds,
            training=training,
            validation=validation,
            extra=[] if folder is None else _apart(extra[folder], validation, settings),
        )
        plans.append(plan)
    return plans


def _plan_drawn(config: Config, pretrain: str, train_only: PathLike | None) -> Plan:
    if (
        pretrain in (LIVECELL, PHASE_LIVECELL)
        or train_only is not None
        or config.data.extra is not None
    ):
        raise FlowsegError(
            "drawn images come without a data folder: no LIVECell, no ids, no extra images",
            remedy=f"leave out --pretrain {LIVECELL}, --train-only and --extra",
        )
    if len(config.cell_types) != 1:
        raise FlowsegError("drawn images are of one cell type", remedy="leave out --cell-type")
    _check_crop_size(config)
    config = replace(config, network=_inherited(config.network, _first(pretrain)))
    return Plan(
        config=config,
        data=None,
        pretrain=pretrain,
        records=[],
        folds={},
        training=[],
        validation=[],
        extra=[],
    )


def _default_start(config: Config, data: Path) -> str:
    """The shipped model, where the network may be its own; else random weights.

    In a folder of one's own it may, unless its settings say otherwise: few images need no larger
    one.
    """
    own = detect_layout(data) == "folder" and _is_of_a_recipe(config.network)
    if not own and config.network != from_rank_zero(lambda: read_card(DEFAULT_MODEL).network):
        return NONE
    _log.info(
        "starting from the model %r that comes with flowseg (--pretrain none: from random weights)",
        DEFAULT_MODEL,
    )
    return DEFAULT_MODEL


def _is_of_a_recipe(network: NetworkConfig) -> bool:
    """Whether nobody asked for another architecture."""
    recipes = (None, *available_recipes())
    return network in [load_config(recipe=recipe).network for recipe in recipes]


def _first(pretrain: str) -> Path | None:
    """The checkpoint that is named, if one is."""
    if pretrain in (NONE, LIVECELL):
        return None
    return checkpoint_at(DEFAULT_MODEL if pretrain == PHASE_LIVECELL else pretrain)


def _inherited(network: NetworkConfig, start: Path | None) -> NetworkConfig:
    """The architecture of the checkpoint to start from, unless another one was asked for."""
    if start is None:
        return network
    found = from_rank_zero(lambda: read_card(start).network)
    return found if _is_of_a_recipe(network) else network


def _check_crop_size(config: Config) -> None:
    with torch.device("meta"):
        stride = build_network(config.network, 1).stride
    crop = config.augment.crop_size
    if crop % stride:
        raise FlowsegError(
            f"augment.crop_size is {crop}, but this network needs a multiple of {stride}",
            remedy=f"set augment.crop_size={-(-crop // stride) * stride}",
        )


def check_images(records: Iterable[Record]) -> None:
    """Read every image once: a damaged one ends a run before it starts, not days later."""
    once = {(record.image_path, record.image_id): record for record in records}
    for record in tqdm(once.values(), desc="checking images", unit="image", delay=2, leave=False):
        record.image()


def _read_extra(folder: Path, config: Config, labelled: Sequence[Record]) -> list[Record]:
    """The images of ``config.data.extra``; none of them may be one of the `labelled` ones."""
    if not folder.is_dir():
        raise FlowsegError("is no folder of extra images", file=folder, remedy="see --extra")
    extra = read_records(folder, tuple(config.cell_types), config.data.include_flawed)
    shared = sorted({r.image_id for r in extra} & {r.image_id for r in labelled})
    if shared:
        raise FlowsegError(
            f"{len(shared)} of its images are among the labelled ones, first {shared[0]!r}: "
            "validation would be on images that were trained on",
            file=folder,
            remedy="remove them there, or name a folder of other images with --extra",
        )
    _log.info("%d extra images to train on: %s", len(extra), folder)
    return extra


def _apart(extra: list[Record], validation: Sequence[Record], settings: DataConfig) -> list[Record]:
    """The extra images of no well, movie or picture that is validated, as their names show it."""
    validated = {name for record in validation for name in _related(record)}
    close = [record.image_id for record in extra if validated & _related(record)]
    if not close:
        return extra
    if settings.extra_of_validated_wells:
        text = (
            "extra images are of wells, movies or pictures that are validated: scores are flattered"
        )
        log_note(Note(text, tuple(close)))
        return extra
    text = "extra images are left out, their well, movie or picture is validated"
    log_note(Note(text, tuple(close), "data.extra_of_validated_wells=true takes them in"))
    return [record for record in extra if not validated & _related(record)]


def _related(record: Record) -> set[str]:
    """Its group among the images of its folder, and what its name alone shows."""
    return {record.group, group_of_name(record.image_id)}


def _train_only_ids(records: Sequence[Record], path: PathLike | None) -> frozenset[str]:
    """Ids of images that are never validated; the file may also name images of other cell types."""
    if path is None:
        return frozenset()
    ids = {record.image_id for record in records}
    named = read_ids(path)
    if named and not named & ids:
        raise FlowsegError(f"names no image of this training, such as {min(ids)!r}", file=path)
    return named & ids


def _as_many_folds_as_groups(
    records: list[Record], settings: DataConfig, train_only: Collection[str]
) -> tuple[list[Record], DataConfig]:
    """Fewer folds where there are fewer groups; where all are one group, each image is its own."""
    of_group = {record.image_id: record.group for record in records}
    groups = {group for image_id, group in of_group.items() if image_id not in train_only}
    images = len(of_group.keys() - train_only)
    if images < 2:
        raise FlowsegError(
            "there is one image with labels, but one to train on and one to validate on are needed",
            remedy="label one more",
        )
    if len(groups) == 1:
        _log.warning(
            "all images are of one movie, picture or well (%s), which folds have to divide: "
            "validation scores are flattered",
            *groups,
        )
        records = [replace(record, group=record.image_id) for record in records]
        groups = set(of_group) - {*train_only}
    if len(groups) < settings.folds:
        which = "images" if len(groups) == images else "groups of images"
        _log.info("%d %s make %d folds, not %d", len(groups), which, len(groups), settings.folds)
        settings = replace(settings, folds=len(groups))
    return records, settings


def measure_cells(
    cells: Mapping[str, CellTypeSettings], records: Sequence[Record]
) -> dict[str, CellTypeSettings]:
    """`cells` with every unknown diameter replaced by the mean one of the training masks."""
    measured = dict(cells)
    for name, cell in cells.items():
        of_type = [record for record in records if record.cell_type == name]
        if not of_type:
            raise FlowsegError(f"there is no image of cell type {name!r} to train on")
        if cell.diameter is None:
            # An even sample is enough for a mean, and a large data set is read lazily.
            sample = of_type[:: -(-len(of_type) // _MEASURED_IMAGES)]
            areas = np.concatenate([record.masks().areas() for record in sample])
            areas = areas[areas > 0]
            if not areas.size:
                raise FlowsegError(f"the images of cell type {name!r} hold no cell to measure")
            diameter = float(equivalent_diameter(areas).mean())
            _log.info("cell type %s: mean diameter %.1f px, measured", name, diameter)
            measured[name] = replace(cell, diameter=round(diameter, 2))
    return measured
