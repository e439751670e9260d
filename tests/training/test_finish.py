"""What a finished stage leaves: overlays, curves, summary."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowseg.io.images import read_image
from flowseg.training.finish import close_folder, draw_overlays
from flowseg.training.run_folder import read_summary
from flowseg.training.stage import Stage, StageResult
from helpers.runs import save_wild_network
from helpers.training import CPU, record


@pytest.mark.slow
def test_overlays_show_prediction_and_truth_side_by_side(stage: Stage) -> None:
    save_wild_network(stage.folder / "best.safetensors")
    images = stage.folder.parent
    validation = [record(images, f"x{k:02}", k, "any") for k in range(13)]
    draw_overlays(replace(stage, validation=validation), CPU)
    drawn = sorted(path.name for path in (stage.folder / "overlays").iterdir())
    assert drawn == [f"x{k:02}.png" for k in range(12)]
    height, width, _ = read_image(stage.folder / "overlays" / "x00.png").shape
    assert height == 64
    assert width >= 160


def test_a_closed_folder_is_finished(stage: Stage) -> None:
    (stage.folder / "metrics.csv").write_text("epoch,loss,score\n1,0.5,0.1\n2,0.4,0.2\n")
    result = StageResult(score=0.2, epoch=2, seconds=1.26)
    close_folder(replace(stage, validation=stage.validation[:1]), result)
    assert (stage.folder / "curves.png").is_file()
    assert read_summary(stage.folder) == {
        "stage": "training",
        "validation_score": 0.2,
        "best_epoch": 2,
        "epochs": 3,
        "seconds": 1.3,
        "training_images": 4,
        "validation_images": ["v0"],
    }
