"""Distillation: one network learns the mean of an ensemble's flow fields over its views."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flowseg.config.schema import Config
from flowseg.errors import FlowsegError
from flowseg.inference.flow_field import FlowField
from flowseg.inference.options import SegmentOptions
from flowseg.inference.segmenter import Prediction, Segmenter
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.image_source import ImageSource
from flowseg.io.paths import PathLike
from flowseg.network.build import build_network
from flowseg.network.checkpoint import load_network
from flowseg.network.device import pick_device
from flowseg.prediction.batch import Batch
from flowseg.prediction.journal import run_key
from flowseg.training.distilled import (
    DistilledCrops,
    Lesson,
    read_lessons,
    save_lesson,
    write_lessons,
)
from flowseg.training.finish import close_folder
from flowseg.training.provenance import provenance_of
from flowseg.training.run import TrainResult
from flowseg.training.run_folder import BEST, TRAINING, Resume, open_run_folder
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage

TEACHER = "teacher"
"""The folder in the run's one with the flow fields that are learned."""

LESSONS = "lessons.csv"
"""The table in it, written when all are there."""

_log = logging.getLogger(__name__)


def distill(
    models: Sequence[PathLike],
    images: Sequence[Path],
    out: PathLike,
    config: Config,
    *,
    tta: int = 4,
    device: str = "auto",
    resume: Resume = False,
) -> TrainResult:
    """Train one network on the averaged flow fields of several, and write a run's folder.

    Parameters
    ----------
    models : sequence of path
        The checkpoints of the teacher, which is their mean.
    images : sequence of path
        Files; no labels are needed. One that cannot be read is reported and left out.
    out : path
        The run's folder.
    config : Config
        Network, augmentation and ``config.training``; the cell types, the intensities and the scale
        are the teacher's. A network of the teacher's architecture starts from its first weights.
    tta : {1, 2, 4, 8}
        Views of each image that the teacher averages.
    device : str
        As for :func:`flowseg.train`.
    resume : bool or "auto"
        Continue the run in `out`; "auto": if there is one.

    Returns
    -------
    TrainResult
        Its score is NaN: nothing is validated. To score a student honestly, distil the network of
        one fold on images of the others.

    Raises
    ------
    FlowsegError
        If the settings do not fit, or no image can be read.
    """
    if config.time_budget is not None:
        raise FlowsegError(
            "a time budget is for training on labels", remedy="set training.epochs instead"
        )
    out = Path(out)
    segmenter = Segmenter.load(models, device, tta=tta)
    card = segmenter.card
    network = replace(config.network, target_diameter=card.network.target_diameter)
    config = replace(
        config,
        network=network,
        cell_types=card.cell_types,
        normalization=card.normalization,
    )
    chosen = pick_device(device)
    origin: dict[str, Any] = {"teacher": run_key(models, {"tta": tta}), "device": chosen.type}
    origin["processes"] = 1
    origin["images"] = [path.name for path in images]
    with open_run_folder(out, config, origin, resume=resume) as has_state:
        folder = ensure_writable_folder(out / TEACHER)
        lessons = read_lessons(folder / LESSONS) if resume else []
        if not lessons:  # else they were all taught before
            lessons = _teach(segmenter, images, folder)
            write_lessons(folder / LESSONS, lessons)
        if not lessons:
            raise FlowsegError("no image could be read", file=out)
        _log.info("learning from %d images", len(lessons))
        provenance = provenance_of(config, [], []) | {
            "stage": TRAINING,
            "data": f"{len(lessons)} images as {len(models)} models see them",
            "teacher": [Path(model).name for model in models],
        }
        stage = Stage(
            folder=out,
            config=config,
            schedule=config.training,
            training=(),
            validation=(),
            provenance=provenance,
            dataset=DistilledCrops(lessons, config),
        )
        student = build_network(config.network, len(config.cell_types), config.seed)
        if config.network == card.network and not has_state:
            _log.info("starting from %s", models[0])
            student.load_state_dict(load_network(models[0])[0].state_dict())
        result = train_stage(stage, student, chosen, has_state)
        close_folder(stage, result)
    return TrainResult(folder=out, checkpoint=out / BEST, score=result.score, epoch=result.epoch)


def _teach(segmenter: Segmenter, files: Sequence[Path], folder: Path) -> list[Lesson]:
    """Store what the teacher makes of each image."""
    lessons: list[Lesson] = []

    def write(image: ImageSource, grey: NDArray[np.float32], prediction: Prediction) -> Lesson:
        path = folder / f"{image.image_id}.npz"
        save_lesson(path, grey, FlowField(prediction.flows, prediction.cellprob))
        return Lesson(path, prediction.cell_type, prediction.diameter)

    with logging_redirect_tqdm(), tqdm(total=len(files), desc="teaching", unit="image") as progress:
        batch = Batch(segmenter, files, progress)
        options = SegmentOptions()
        sources = (image for path in files for image in batch.images(path, options))
        batch.segment(sources, options, write, lambda _, lesson: lessons.append(lesson))
    return lessons
