"""What a finished stage leaves in its folder: overlays, curves, and last the summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from flowseg.arrays.intensity import normalize
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.config.schema import Precision
from flowseg.data.record import Record
from flowseg.inference.segmenter import Segmenter
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.images import write_image
from flowseg.reports.charts import write_curves
from flowseg.reports.overlay import side_by_side
from flowseg.training.run_folder import BEST, CURVES, METRICS, OVERLAYS, write_summary
from flowseg.training.trainer import Stage, StageResult

__all__ = ["close_folder", "draw_overlays"]

_MAX_OVERLAYS = 12


def draw_overlays(
    out: Path, validation: Sequence[Record], device: str, precision: Precision
) -> None:
    """Overlays of the best checkpoint on validation images: prediction left, truth right."""
    segmenter = Segmenter.load(out / BEST, device, precision)
    folder = ensure_writable_folder(out / OVERLAYS)
    for record in tqdm(validation[:_MAX_OVERLAYS], desc="overlays", unit="image"):
        image = record.image()
        labels = segmenter.segment(image, cell_type=record.cell_type).labels
        picture = side_by_side(normalize(image), labels, masks_to_labels(record.masks()))
        write_image(folder / f"{record.image_id}.png", picture)


def close_folder(folder: Path, stage: Stage, result: StageResult) -> None:
    """The summary goes last: a folder that has one is finished."""
    write_curves(folder / METRICS, folder / CURVES)
    results = {
        "validation_score": result.score,
        "best_epoch": result.epoch,
        "epochs": stage.schedule.epochs,
        "seconds": round(result.seconds, 1),
        "training_images": len(stage.training),
        "validation_images": [record.image_id for record in stage.validation],
    }
    write_summary(folder, stage.name, results)
