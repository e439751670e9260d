"""What training asks of its images: that they can be read, a fold, and the size of their cells."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flowseg.config import CellType, Config, DataConfig
from flowseg.data.folds import assign_folds, read_ids
from flowseg.data.layouts import read_records
from flowseg.data.record import Record
from flowseg.errors import FlowsegError

__all__ = ["check_images", "extra_images", "measure_cells", "split_images"]

_MEASURED_IMAGES = 50

_log = logging.getLogger(__name__)


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
    extra = read_records(folder, tuple(config.cells), config.data.include_flawed)
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


def measure_cells(cells: Mapping[str, CellType], records: Sequence[Record]) -> dict[str, CellType]:
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
            diameter = float(np.mean(2 * np.sqrt(areas / np.pi)))
            _log.info("cell type %s: mean diameter %.1f px, measured", name, diameter)
            measured[name] = replace(cell, diameter=round(diameter, 2))
        else:
            measured[name] = cell
    return measured
