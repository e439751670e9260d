"""Crops whose targets are the flow fields of a teacher, for distillation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch.utils.data import Dataset

from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.inference.flow_field import FlowField
from flowseg.io.atomic import atomic_path
from flowseg.io.tables import read_table, write_table
from flowseg.training.augment import background, draw_geometry, vary_intensity
from flowseg.training.batches import Batch
from flowseg.training.decoded import IGNORED

_IN_MEMORY = 128  # images

Floats = NDArray[np.float32]


class Lesson(NamedTuple):
    """An image with what the teacher makes of it, in a file, and the settings it was seen with."""

    path: Path
    cell_type: str
    diameter: float


def save_lesson(path: Path, grey: Floats, field: FlowField) -> None:
    """Write a normalised image (H, W) and its flow field, atomically, as float16."""
    arrays = {"image": grey, "flows": field.flows, "cellprob": field.cellprob}
    with atomic_path(path) as part, part.open("wb") as file:
        np.savez(file, **{name: array.astype(np.float16) for name, array in arrays.items()})  # type: ignore[arg-type]


def write_lessons(table: Path, lessons: Sequence[Lesson]) -> None:
    """Write which lessons there are, beside them."""
    rows = [(lesson.path.name, lesson.cell_type, lesson.diameter) for lesson in lessons]
    write_table(table, pd.DataFrame(rows, columns=Lesson._fields))


def read_lessons(table: Path) -> list[Lesson]:
    """What `write_lessons` wrote; none where it has not come so far."""
    if not table.is_file():
        return []
    columns = (read_table(table, Lesson._fields)[name] for name in Lesson._fields)
    return [
        Lesson(table.parent / name, cell_type, float(diameter))
        for name, cell_type, diameter in zip(*columns, strict=True)
    ]


@lru_cache(maxsize=_IN_MEMORY)
def _read(path: Path) -> tuple[Floats, Floats, Floats]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            image, flows, cellprob = (file[name].astype(np.float32) for name in file.files)
            return image, flows, cellprob
    except (OSError, ValueError, LookupError, TypeError, EOFError, BadZipFile) as error:
        raise FlowsegError(
            "holds no flow field of a teacher", file=path, remedy="start over in another folder"
        ) from error


class DistilledCrops(Dataset[Batch]):
    """An endless sequence of augmented crops; crop i is a function of the seed and i alone.

    Targets are the teacher's flows, and its probability that a pixel lies in a cell. All images are
    seen equally often.
    """

    def __init__(self, lessons: Sequence[Lesson], config: Config) -> None:
        if not lessons:
            raise FlowsegError("there is no image to learn from")
        self._lessons = list(lessons)
        self._types = list(config.cell_types)
        self._seed = config.seed
        self._augment = config.augment
        self._diameter = config.network.target_diameter

    def __getitem__(self, number: int) -> Batch:
        turn, position = divmod(number, len(self._lessons))
        order = np.random.default_rng([self._seed, 0, turn]).permutation(len(self._lessons))
        lesson = self._lessons[order[position]]
        rng = np.random.default_rng([self._seed, 1, number])
        image, flows, cellprob = _read(lesson.path)
        zoom = self._diameter / lesson.diameter
        geometry = draw_geometry((image.shape[0], image.shape[1]), zoom, self._augment, rng)
        edge = self._augment.crop_size
        crop = geometry.warp(image, edge, background(image)).astype(np.float32)
        targets = np.stack([geometry.warp(plane, edge, 0.0) for plane in (*flows, cellprob)])
        beyond = geometry.warp(np.zeros_like(image), edge, 1.0).astype(np.float32) > 0
        inside = np.where(beyond, IGNORED, expit(targets[2].astype(np.float32)))
        turned = np.where(beyond, 0, geometry.rotate(targets[:2].astype(np.float32)))
        return Batch(
            torch.from_numpy(vary_intensity(crop, self._augment, rng))[None],
            torch.from_numpy(turned.astype(np.float32)),
            torch.from_numpy(inside.astype(np.float32)),
            torch.tensor(self._types.index(lesson.cell_type)),
        )
