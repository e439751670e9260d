"""The end of a stage: overlays of the validation images, training curves, the summary."""

from __future__ import annotations

import torch
from tqdm import tqdm

from flowseg.arrays.intensity import normalize
from flowseg.arrays.overlaps import masks_to_labels
from flowseg.inference.segmenter import Segmenter
from flowseg.io.atomic import ensure_writable_folder
from flowseg.io.images import write_image
from flowseg.reports.charts import write_curves
from flowseg.reports.overlay import side_by_side
from flowseg.training.run_folder import BEST, CURVES, METRICS, OVERLAYS, write_summary
from flowseg.training.stage import Stage, StageResult

_MAX_OVERLAYS = 12


def draw_overlays(stage: Stage, device: torch.device) -> None:
    """Overlays of the best checkpoint on validation images: prediction left, truth right."""
    segmenter = Segmenter.load(stage.folder / BEST, str(device), stage.schedule.precision)
    folder = ensure_writable_folder(stage.folder / OVERLAYS)
    for record in tqdm(stage.validation[:_MAX_OVERLAYS], desc="overlays", unit="image"):
        image = record.image()
        labels = segmenter.segment(image, cell_type=record.cell_type).labels
        picture = side_by_side(normalize(image), labels, masks_to_labels(record.masks()))
        write_image(folder / f"{record.image_id}.png", picture)


def close_folder(stage: Stage, result: StageResult) -> None:
    """Draw the training curves and write the summary, which marks the folder as finished."""
    write_curves(stage.folder / METRICS, stage.folder / CURVES)
    results = {
        "validation_score": result.score,
        "best_epoch": result.epoch,
        "epochs": stage.schedule.epochs,
        "seconds": round(result.seconds, 1),
        "training_images": len(stage.training),
        "validation_images": [record.image_id for record in stage.validation],
    }
    write_summary(stage.folder, stage.name, results)
