"""Schedules that fit into the time that there is, on this machine."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from flowseg.config.loading import load_config
from flowseg.config.schema import Config, ScheduleConfig
from flowseg.network.build import build_network
from flowseg.training.distributed import from_rank_zero, world_size
from flowseg.training.plan import Plan
from flowseg.training.run_folder import CONFIG, TRAINING, Resume
from flowseg.training.stage import Stage
from flowseg.training.timing import duration
from flowseg.training.trainer import Trainer

_WARM_UP, _MEASURED = 2, 6  # steps
_RESERVE = 0.12
"""Part of a budget that validation, checkpoints and overlays take."""

_log = logging.getLogger(__name__)


def within_budget(plans: list[Plan], out: Path, device: torch.device, resume: Resume) -> list[Plan]:
    """The plans of all folds with schedules that together take ``config.time_budget`` here.

    A run in `out` that is resumed keeps the schedules that it was started with.
    """
    first, budget = plans[0], plans[0].config.time_budget
    if budget is None:
        return plans
    if resume and (out / CONFIG).is_file():
        fitted = load_config(path=out / CONFIG)
    else:
        fitted = fit_budget(
            first.config,
            budget,
            _seconds_per_step(first, device),
            pretraining=first.livecell,
            folds=len(plans),
            processes=world_size(),
        )
    return [
        replace(
            plan,
            config=replace(
                plan.config,
                training=fitted.training,
                pretraining=fitted.pretraining,
                time_budget=None,
            ),
        )
        for plan in plans
    ]


def _seconds_per_step(plan: Plan, device: torch.device) -> float:
    """Seconds of one optimiser step of a training, its crops included, as measured here."""
    config, steps = plan.config, _WARM_UP + _MEASURED
    crops = steps * config.training.batch_size * world_size()
    with TemporaryDirectory() as folder:
        stage = Stage(
            folder=Path(folder) / "trial",
            config=config,
            schedule=replace(config.training, epochs=1, crops_per_epoch=crops),
            training=plan.training,
            validation=(),
            extra=plan.extra,
            dataset=plan.dataset,
            provenance={"stage": TRAINING},
        )
        network = build_network(config.network, len(config.cell_types), config.seed)
        trainer = Trainer(stage, network, device)
        trainer.network.train()
        with closing(trainer.batches()) as source:  # type: ignore[type-var]
            start = 0.0
            for step in range(steps):
                if step == _WARM_UP:
                    start = time.monotonic()
                trainer.train_step(next(source), 0.0).tolist()  # waits for a GPU
            seconds = (time.monotonic() - start) / _MEASURED
    return from_rank_zero(lambda: seconds)


def fit_budget(
    config: Config,
    budget: float,
    step: float,
    *,
    pretraining: bool,
    folds: int = 1,
    processes: int = 1,
) -> Config:
    """The schedules that fit into a number of seconds, where a step takes `step` seconds.

    All stages have more or fewer epochs alike, so that the schedule keeps its shape, of about as
    many crops as before, so that the whole fits exactly. The first stage counts with `pretraining`,
    which `folds` runs share.
    """
    stages = {"training": folds, **({"pretraining": 1} if pretraining else {})}
    planned = sum(
        count * step * _steps(getattr(config, name), processes) for name, count in stages.items()
    )
    factor = (1 - _RESERVE) * budget / planned
    fitted = replace(config, training=_scaled(config.training, factor, processes))
    if pretraining:
        fitted = replace(fitted, pretraining=_scaled(config.pretraining, factor, processes))
    steps = {name: _steps(getattr(fitted, name), processes) for name in stages}
    _log.info(
        "a step takes %.2f s here: %s in %s",
        step,
        ", ".join(f"{count:,} steps of {name}" for name, count in steps.items()),
        duration(budget),
    )
    return fitted


def _steps(schedule: ScheduleConfig, processes: int) -> int:
    return schedule.epochs * -(-schedule.crops_per_epoch // (schedule.batch_size * processes))


def _scaled(schedule: ScheduleConfig, factor: float, processes: int) -> ScheduleConfig:
    epochs = max(1, round(schedule.epochs * factor))
    steps = max(1, int(_steps(schedule, processes) * factor / epochs))
    return replace(
        schedule,
        epochs=epochs,
        crops_per_epoch=steps * schedule.batch_size * processes,
        validate_every=min(schedule.validate_every, epochs),
    )
