"""A demonstration on synthetic neurons: pre-train, train, predict, evaluate, report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flowseg.config.loading import load_config
from flowseg.errors import FlowsegError
from flowseg.evaluation.evaluate import evaluate
from flowseg.formats.writers import Formats
from flowseg.io.paths import find_images
from flowseg.prediction.predict import predict
from flowseg.reports.dataset_report import explore
from flowseg.reports.evaluation_report import write_report
from flowseg.synthetic.datasets import (
    TEST_TRUTH,
    write_synthetic_livecell,
    write_synthetic_sartorius,
)
from flowseg.training.run import train

# Small enough for two CPU cores without bfloat16 in two minutes; everything else is as in any run.
SETTINGS = (
    "network.channels=[16, 32, 64, 128]",
    "network.blocks_per_level=1",
    "augment.crop_size=192",
    "data.folds=3",
    "pretraining.epochs=2",
    "pretraining.crops_per_epoch=400",
    "pretraining.validate_every=2",
    "training.epochs=7",
    "training.crops_per_epoch=400",
    "training.learning_rate=3e-3",
    "training.validate_every=7",
)
TRAIN_IMAGES, TEST_IMAGES, LIVECELL_IMAGES = 18, 6, (4, 1)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The score on the test images, which were not trained on, and where the files are.

    `data` and `run` are folders, `exploration` and `report` pages on the data and on the score.
    """

    score: float
    data: Path
    run: Path
    outputs: Formats
    exploration: Path
    report: Path


def demo(out: str | os.PathLike[str], device: str = "auto", seed: int = 42) -> DemoResult:
    """Draw neurons in the competition's layout, train on them, predict, and evaluate.

    `out` is a new folder for data, run and results; the device is as for :func:`flowseg.train`, the
    seed that of the synthetic data and of the training. Raises FlowsegError if `out` holds
    something already.
    """
    out = Path(out)
    if out.is_dir() and any(out.iterdir()):
        raise FlowsegError("is not empty", file=out, remedy="remove it, or name another --out")
    data = out / "data"
    write_synthetic_sartorius(data, TRAIN_IMAGES, TEST_IMAGES, seed)
    write_synthetic_livecell(data, *LIVECELL_IMAGES, seed + 1)
    config = load_config("all", overrides=[*SETTINGS, f"seed={seed}"])
    run = train(config, data, out / "runs" / "demo", pretrain="livecell", device=device)
    outputs = Formats(
        submission=out / "submission.csv",
        labels=out / "labels",
        overlays=out / "overlays",
        fields=out / "fields",
        cells=out / "cells",
    )
    prediction = predict(run.checkpoint, find_images(data / "test"), outputs, device=device)
    if prediction.failed:
        raise prediction.failed[0]
    exploration, report = out / "data.html", out / "scores.html"
    explore(data, exploration)
    truth = data / TEST_TRUTH
    result = evaluate(truth, prediction.submission)
    write_report(result, report, images=data / "test")
    return DemoResult(
        score=result.score,
        data=data,
        run=run.folder,
        outputs=outputs,
        exploration=exploration,
        report=report,
    )
