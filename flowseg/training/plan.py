"""What a training will do, decided before anything is computed or written."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
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
from flowseg.data.mask_repair import repair
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import read_card
from flowseg.training.distributed import from_rank_zero, world_size
from flowseg.training.provenance import digest, fingerprint
from flowseg.training.run_folder import checkpoint_at

__all__ = ["LIVECELL", "NONE", "Plan", "check_images", "measure_cells", "plan"]

NONE = "none"
LIVECELL = "livecell"

_MEASURED_IMAGES = 50

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The training of one fold.

    Attributes
    ----------
    config : Config
        With the network, the diameters and the number of folds that the data decide.
    records : list of Record
        All images with labels.
    folds : dict of int
        The fold of each of them by its id.
    training, validation, extra : list of Record
        What this fold trains on, what it keeps back, and more images to train on.
    """

    config: Config
    records: list[Record]
    folds: dict[str, int]
    training: list[Record]
    validation: list[Record]
    extra: list[Record]

    def origin(self, pretrain: str, device: torch.device) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that began."""
        fresh = pretrain in (NONE, LIVECELL)
        return {
            "pretrain": pretrain
            if fresh
            else from_rank_zero(lambda: digest(checkpoint_at(pretrain))),
            "training": fingerprint(self.training),
            "validation": fingerprint(self.validation),
            "extra": fingerprint(self.extra) if self.extra else None,
            "processes": world_size(),
            "device": device.type,
        }


def plan(
    config: Config, data: Path, pretrain: str, train_only: str | os.PathLike[str] | None
) -> Plan:
    """Read what there is, and refuse what cannot be trained.

    Raises
    ------
    FlowsegError
        For whatever the user can mend.
    """
    _check_crop(config)
    if pretrain not in (NONE, LIVECELL):
        config = replace(config, network=_inherited(config.network, checkpoint_at(pretrain)))
    records = read_records(data, tuple(config.cell_types), config.data.include_flawed)
    settings, folds = split_images(
        records, config.data, train_only, detect_layout(data) == "folder"
    )
    config = replace(config, data=settings)
    extra = extra_images(config, records)
    training, validation = split_fold(records, folds, config.data.fold)
    training = [
        replace(record, annotation=repair(record.masks(), config.data.mask_repair))
        for record in training
    ]
    config = replace(config, cell_types=measure_cells(config.cell_types, training))
    return Plan(config, records, folds, training, validation, extra)


def _inherited(network: NetworkConfig, start: Path) -> NetworkConfig:
    """The architecture of the checkpoint to start from, unless another one was asked for."""
    found = from_rank_zero(lambda: read_card(start).network)
    recipes = [load_config(recipe=recipe).network for recipe in (None, *available_recipes())]
    return found if network in recipes else network


def _check_crop(config: Config) -> None:
    stride = 1 << (len(config.network.channels) - 1)
    crop = config.augment.crop_size
    if crop % stride:
        raise FlowsegError(
            f"augment.crop_size is {crop}, but this network needs a multiple of {stride}",
            remedy=f"set augment.crop_size={-(-crop // stride) * stride}",
        )


def check_images(records: Sequence[Record]) -> None:
    """Read every image once: a damaged one ends a run before it starts, not days later."""
    for record in tqdm(records, desc="checking images", unit="image", delay=2, leave=False):
        record.image()


def extra_images(config: Config, labelled: Sequence[Record]) -> list[Record]:
    """The images of ``config.data.extra``; none of them may be one of the `labelled` ones."""
    if config.data.extra is None:
        return []
    folder = Path(config.data.extra.replace("{fold}", str(config.data.fold)))
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


def split_images(
    records: Sequence[Record],
    config: DataConfig,
    train_only: str | os.PathLike[str] | None,
    fewer: bool,
) -> tuple[DataConfig, dict[str, int]]:
    """The fold of each image; `train_only` may also name images of other cell types.

    With `fewer`, images that are too few for the folds asked for make fewer.
    """
    known = {record.image_id for record in records}
    kept: frozenset[str] = frozenset()
    if train_only is not None:
        named = read_ids(train_only)
        kept = named & known
        if named and not kept:
            raise FlowsegError(
                f"names no image of this training, such as {min(known)!r}", file=train_only
            )
    if fewer:
        config = _fewer_folds(config, len(known - kept))
    return config, assign_folds(records, config.folds, config.split_seed, kept)


def _fewer_folds(config: DataConfig, images: int) -> DataConfig:
    """As many folds as images, where someone's own are fewer than the folds asked for."""
    if images < 2:
        raise FlowsegError(
            "there is one image with labels, but one to learn from and one to check on are needed",
            remedy="label one more",
        )
    if images >= config.folds:
        return config
    _log.info("%d images make %d folds, not %d", images, images, config.folds)
    return replace(config, folds=images)


def measure_cells(
    cells: Mapping[str, CellTypeSettings], records: Sequence[Record]
) -> dict[str, CellTypeSettings]:
    """`cells` with every unknown diameter replaced by the mean one of the training masks."""
    measured = {}
    for name, cell in cells.items():
        own = [record for record in records if record.cell_type == name]
        if not own:
            raise FlowsegError(f"there is no image of cell type {name!r} to train on")
        if cell.diameter is None:
            # An even sample is enough for a mean, and a large data set is read lazily.
            sample = own[:: -(-len(own) // _MEASURED_IMAGES)]
            areas = np.concatenate([record.masks().areas() for record in sample])
            areas = areas[areas > 0]
            if not areas.size:
                raise FlowsegError(f"the images of cell type {name!r} hold no cell to measure")
            diameter = float(equivalent_diameter(areas).mean())
            _log.info("cell type %s: mean diameter %.1f px, measured", name, diameter)
            measured[name] = replace(cell, diameter=round(diameter, 2))
        else:
            measured[name] = cell
    return measured
