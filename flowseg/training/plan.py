"""What a training will do, decided before anything is computed or written."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flowseg.config import Config, NetworkConfig, available_machines, load_config
from flowseg.data.defects import repair
from flowseg.data.folds import split_fold
from flowseg.data.layouts import layout_of, read_records
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import read_card
from flowseg.training.distributed import from_first, processes
from flowseg.training.images import extra_images, measure_cells, split_images
from flowseg.training.pretraining import LIVECELL, NONE, checkpoint_at
from flowseg.training.provenance import digest, fingerprint

__all__ = ["Plan", "plan"]

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
            "pretrain": pretrain if fresh else from_first(lambda: digest(checkpoint_at(pretrain))),
            "training": fingerprint(self.training),
            "validation": fingerprint(self.validation),
            "extra": fingerprint(self.extra) if self.extra else None,
            "processes": processes(),
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
    records = read_records(data, tuple(config.cells), config.data.include_flawed)
    settings, folds = split_images(records, config.data, train_only, layout_of(data) == "folder")
    config = replace(config, data=settings)
    extra = extra_images(config, records)
    training, validation = split_fold(records, folds, config.data.fold)
    training = [
        replace(record, annotation=repair(record.masks(), config.data.repair))
        for record in training
    ]
    config = replace(config, cells=measure_cells(config.cells, training))
    return Plan(config, records, folds, training, validation, extra)


def _inherited(network: NetworkConfig, start: Path) -> NetworkConfig:
    """The architecture of the checkpoint to start from, unless another one was asked for."""
    found = from_first(lambda: read_card(start).network)
    recipes = [load_config(machine=machine).network for machine in (None, *available_machines())]
    return found if network in recipes else network


def _check_crop(config: Config) -> None:
    stride = 1 << (len(config.network.channels) - 1)
    crop = config.augment.crop
    if crop % stride:
        raise FlowsegError(
            f"augment.crop is {crop}, but this network needs a multiple of {stride}",
            remedy=f"set augment.crop={-(-crop // stride) * stride}",
        )
