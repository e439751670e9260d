"""Pseudo-labels: a model's confident cells in unlabelled images, as a folder to train on."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import fastremap
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flowseg._version import __version__
from flowseg.arrays.labels import keep_largest_component, renumber
from flowseg.data.folder import TYPE_TABLE
from flowseg.data.sartorius import CELL_TYPES
from flowseg.errors import FlowsegError
from flowseg.flow.residuals import instance_scores
from flowseg.inference.options import SegmentOptions, check_options, settings_for
from flowseg.inference.segmenter import Prediction, Segmenter
from flowseg.io.atomic import atomic_folder, ensure_writable_folder, write_text
from flowseg.io.image_source import ImageSource
from flowseg.io.images import write_labels
from flowseg.io.outputs import claim_outputs
from flowseg.io.paths import PathLike
from flowseg.io.tables import write_table
from flowseg.prediction.batch import Batch
from flowseg.prediction.journal import run_key
from flowseg.reports.text import text_table
from flowseg.training.run_folder import ORIGIN

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What counts as confident; both from 0 to 1.

    Cells whose `score` (:func:`flowseg.flow.residuals.instance_scores`) is smaller are dropped. An
    image is left out where its confident cells cover less than a `share` of the predicted
    foreground: the rest would be taught as background.
    """

    score: float = 0.7
    share: float = 0.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise FlowsegError(f"the smallest {name} must be from 0 to 1, not {value:g}")

    def allow(self, row: Pseudo) -> bool:
        """Whether enough of an image is confident."""
        return row.cells > 0 and row.share >= self.share


class Pseudo(NamedTuple):
    """One image; a row of `cell_types.csv`.

    `cells` of its `found` cells are confident, and cover `share` of the predicted foreground.
    """

    id: str
    cell_type: str
    cells: int = 0
    found: int = 0
    share: float = 0.0


class PseudoLabels(NamedTuple):
    """The outcome: images in the folder, images left out, and the errors of those that failed.

    An image is left out if too little of it is confident, or the model does not know its cell type.
    """

    kept: list[Pseudo]
    left_out: list[Pseudo]
    failed: tuple[FlowsegError, ...]


def pseudo_label(
    models: Sequence[PathLike],
    images: Sequence[Path],
    out: PathLike,
    *,
    cell_type: str | None = None,
    limits: Limits = Limits(),
    tta: int = 1,
    device: str = "auto",
) -> PseudoLabels:
    """Label images with a model and write its confident cells as a folder to train on.

    The models are averaged. Images are files of one image each; one that cannot be done is reported
    and left out. By default its cell type is that of its name (:func:`type_of_name`), else the
    model classifies it; a model of some of the competition's cell types leaves out images named
    after the others. The folder `out` is as :func:`flowseg.data.folder.read_folder` reads it, with
    `origin.json`, and appears when all is done. Raises FlowsegError if the settings are wrong,
    `out` is not empty, or no image has enough confident cells.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FlowsegError("is no empty folder", file=out, remedy="name another with --out")
    ensure_writable_folder(out.parent)
    segmenter = Segmenter.load(models, device, tta=tta)
    check_options(segmenter.card, SegmentOptions(cell_type=cell_type))
    settings = {**asdict(limits), "cell_type": cell_type, "tta": tta}
    origin = {"flowseg": __version__, "models": [str(model) for model in models], **settings}
    origin["key"] = run_key(models, settings)
    groups, unknown = _group_by_type(images, cell_type, segmenter.card.cell_types)
    files = [path for paths in groups.values() for path in paths]
    kept: list[Pseudo] = []
    left_out: list[Pseudo] = []
    with claim_outputs([out], [*images, *models]), atomic_folder(out) as part:

        def write(image: ImageSource, _: Any, prediction: Prediction) -> Pseudo:
            threshold = settings_for(segmenter.card, prediction.cell_type).cellprob_threshold
            labels, share = confident_cells(prediction, threshold, limits.score)
            cells, found = (int(ids.max(initial=0)) for ids in (labels, prediction.labels))
            row = Pseudo(image.path.stem, prediction.cell_type, cells, found, round(share, 4))
            if limits.allow(row):
                shutil.copyfile(image.path, part / "images" / image.path.name)
                write_labels(part / "masks" / f"{row.id}_masks.tif", labels)
            return row

        for name in ("images", "masks"):
            (part / name).mkdir(parents=True)
        with (
            logging_redirect_tqdm(),
            tqdm(total=len(files), desc="labelling", unit="image") as progress,
        ):
            batch = Batch(segmenter, files, progress)
            for group, paths in groups.items():
                batch.segment(
                    (image for path in paths for image in _single_image(batch, path)),
                    SegmentOptions(cell_type=group),
                    write,
                    lambda _, row: (kept if limits.allow(row) else left_out).append(row),
                )
        if not kept:
            if batch.failed and not left_out:
                raise batch.failed[0]
            raise _nothing_kept(unknown, left_out)
        write_text(part / ORIGIN, json.dumps(origin, indent=2) + "\n")
        write_table(part / TYPE_TABLE, pd.DataFrame(sorted(kept)))
    return PseudoLabels(sorted(kept), sorted([*left_out, *unknown]), batch.failed)


def report(result: PseudoLabels) -> str:
    """A table of what was kept, by cell type."""
    rows = []
    for name in sorted({row.cell_type for row in (*result.kept, *result.left_out)}):
        kept = [row for row in result.kept if row.cell_type == name]
        left = sum(row.cell_type == name for row in result.left_out)
        cells, found = sum(row.cells for row in kept), sum(row.found for row in kept)
        rows.append((name, len(kept), left, cells, found))
    return text_table(rows, ["cell type", "images", "left out", "cells", "of found"])


def type_of_name(name: str, known: Iterable[str]) -> str | None:
    """The cell type that a file's name begins with, as those of the competition do.

    Examples
    --------
    >>> type_of_name("astros[cereb]_E10-4_Vessel-714", ["shsy5y", "astro", "cort"])
    'astro'
    >>> type_of_name("well7", ["shsy5y", "astro", "cort"])
    """
    begun = [cell_type for cell_type in known if name.lower().startswith(cell_type.lower())]
    return max(begun, key=len, default=None)


def confident_cells(
    prediction: Prediction, cellprob_threshold: float, score: float
) -> tuple[NDArray[np.int32], float]:
    """The cells of a prediction whose score is at least `score`, of each its largest component.

    Label image of ids 1..N, and the share of the predicted foreground that they cover.
    """
    labels, flows, cellprob = prediction.labels, prediction.flows, prediction.cellprob
    unsure = 1 + np.flatnonzero(instance_scores(labels, flows, cellprob) < score)
    cells = renumber(keep_largest_component(fastremap.mask(labels, unsure.tolist())))
    foreground = int(np.count_nonzero((labels > 0) | (cellprob > cellprob_threshold)))
    return cells, int(np.count_nonzero(cells)) / max(foreground, 1)


def _group_by_type(
    images: Sequence[Path], cell_type: str | None, known: Collection[str]
) -> tuple[dict[str | None, list[Path]], list[Pseudo]]:
    """The images by cell type, None for the model to classify, and those of unknown types."""
    # Only a model of the competition knows what the names of its images mean.
    types = {*known} if {*known}.isdisjoint(CELL_TYPES) else {*known, *CELL_TYPES}
    groups: dict[str | None, list[Path]] = {}
    unknown: list[Pseudo] = []
    for path in images:
        group = cell_type or type_of_name(path.stem, types)
        if group is None or group in known:
            groups.setdefault(group, []).append(path)
        else:
            unknown.append(Pseudo(path.stem, group))
    for name, count in Counter(row.cell_type for row in unknown).items():
        _log.warning("%d images left out: the model does not know %s", count, name)
    return groups, unknown


def _single_image(batch: Batch, path: Path) -> list[ImageSource]:
    images = batch.images(path, SegmentOptions())
    if not images or (path.is_file() and len(images) == 1):
        return images
    batch.fail(FlowsegError("is no file of one image", remedy="save each image as a file"), path)
    return []


def _nothing_kept(unknown: Sequence[Pseudo], left_out: Sequence[Pseudo]) -> FlowsegError:
    if unknown and not left_out:
        types = ", ".join(sorted({row.cell_type for row in unknown}))
        return FlowsegError(
            f"all images are named after cell types that the model does not know: {types}",
            remedy="name their cell type with --cell-type, or use a model of these types",
        )
    return FlowsegError(
        f"none of {len(left_out)} images has enough confident cells",
        remedy="lower --min-score or --min-share, or train the model for longer",
    )
