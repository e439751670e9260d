"""One stage of training, from the first step to the last, resumable after any epoch."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from flowseg.config import CellType, Config, ScheduleConfig
from flowseg.data.record import Record
from flowseg.errors import FlowsegError
from flowseg.evaluation.competition import competition_score
from flowseg.files import write_text
from flowseg.inference.segmenter import Segmenter
from flowseg.network.checkpoint import Card, read_tensors, save_network, save_tensors
from flowseg.network.device import autocast, pick_precision
from flowseg.network.losses import Losses, flow_loss
from flowseg.network.unet import FlowNetwork
from flowseg.training.batches import Batch, CropDataset, batches

__all__ = ["BEST", "LAST", "METRICS", "STATE", "Stage", "StageResult", "fit", "learning_rate"]

BEST = "best.safetensors"
LAST = "last.safetensors"
STATE = "state.safetensors"
METRICS = "metrics.csv"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """What one stage of training needs.

    Attributes
    ----------
    name : str
        For the progress bar.
    folder : Path
        Where checkpoints and metrics go; it exists.
    training, validation : sequence of Record
        Disjoint; `validation` may be empty, then the last weights are the best.
    cells : mapping of str to CellType
        With known diameters; its order numbers the types.
    config : Config
        All settings.
    schedule : ScheduleConfig
        The one of `config` that this stage follows.
    provenance : mapping
        Goes on the card.
    on_epoch : callable, optional
        Told the row of `metrics.csv` of each epoch.
    """

    name: str
    folder: Path
    training: Sequence[Record]
    validation: Sequence[Record]
    cells: Mapping[str, CellType]
    config: Config
    schedule: ScheduleConfig
    provenance: Mapping[str, Any]
    on_epoch: Callable[[Mapping[str, float]], None] | None = None


@dataclass(frozen=True)
class StageResult:
    """How a stage ended; the score is NaN where nothing was validated."""

    score: float
    epoch: int
    seconds: float


def fit(stage: Stage, network: FlowNetwork, device: torch.device, resume: bool) -> StageResult:
    """Train `network` through a stage and leave its best and last weights in the folder.

    Parameters
    ----------
    stage : Stage
        Data and settings.
    network : FlowNetwork
        With its initial weights; ignored when resuming.
    device : torch.device
        Where to compute.
    resume : bool
        Continue from the folder's state.

    Returns
    -------
    StageResult

    Notes
    -----
    Crop i is a function of the seed and i alone and the rate one of the step, so that a stage
    resumed after an epoch ends with the weights of an undisturbed one.
    """
    if device.type == "cuda":
        # Else cuDNN may choose sums whose order changes from run to run.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    schedule = stage.schedule
    steps = -(-schedule.crops // schedule.batch_size)
    run = _Run(stage, network, device)
    if resume:
        run.load()
    else:
        run.save()
    dataset = CropDataset(stage.training, stage.cells, stage.config)
    crops = range(
        run.epoch * steps * schedule.batch_size, schedule.epochs * steps * schedule.batch_size
    )
    source = batches(
        dataset, crops, schedule.batch_size, _workers(schedule, device), device.type == "cuda"
    )
    total = schedule.epochs * steps
    with tqdm(
        total=total, initial=run.epoch * steps, desc=stage.name, unit="step", dynamic_ncols=True
    ) as bar:
        while run.epoch < schedule.epochs:
            started = time.monotonic()
            sums = torch.zeros(4, device=device)
            run.network.train()
            for step in range(run.epoch * steps, (run.epoch + 1) * steps):
                rate = learning_rate(step, total, schedule)
                sums += run.step(next(source), rate)
                bar.update()
            losses = (sums / steps).tolist()
            if not math.isfinite(losses[0]):
                raise FlowsegError(
                    f"the loss is no longer a number in epoch {run.epoch + 1}",
                    remedy="lower training.learning_rate or set training.precision to float32",
                )
            run.epoch += 1
            last = run.epoch == schedule.epochs
            scores = run.validate() if last or run.epoch % schedule.validate_every == 0 else {}
            run.close_epoch(losses, rate, scores, time.monotonic() - started)
            bar.set_postfix(
                loss=f"{losses[0]:.3f}", score=f"{run.last_score:.3f}", best=f"{run.best:.3f}"
            )
    return StageResult(run.best, run.best_epoch, sum(row["seconds"] for row in run.rows))


def learning_rate(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """The rate of one step: a linear rise, then half a cosine down to zero.

    Parameters
    ----------
    step : int
        0 ... `steps` - 1.
    steps : int
        Of the whole stage.
    schedule : ScheduleConfig
        Its peak and its warm-up.
    """
    rise = max(1, round(schedule.warmup * steps))
    if step < rise:
        return schedule.learning_rate * (step + 1) / rise
    share = (step - rise) / max(1, steps - rise)
    return schedule.learning_rate * (1 + math.cos(math.pi * share)) / 2


class _Run:
    """Everything that changes while a stage runs, and how it is kept."""

    def __init__(self, stage: Stage, network: FlowNetwork, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self.dtype = pick_precision(stage.schedule.precision, device)
        # torch's own type hints leave memory_format out.
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = FlowNetwork(network.config, len(stage.cells)).to(device)
        self.mean.load_state_dict(network.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            weight_decay=stage.schedule.weight_decay,
            fused=_fused(device),
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.epoch, self.updates = 0, 0
        self.best, self.best_epoch, self.last_score = math.nan, 0, math.nan
        self.rows: list[dict[str, float]] = []

    def step(self, batch: Batch, rate: float) -> Tensor:
        """Learn from one batch; its losses."""
        batch = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        images = batch.images.contiguous(memory_format=torch.channels_last)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with autocast(self.device, self.dtype):
            output = self.network(images)
        losses: Losses = flow_loss(
            output, batch.flows, batch.inside, batch.cell_type, self.network.config.flow_scale
        )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._average()
        return torch.stack(losses).detach()

    def validate(self) -> dict[str, float]:
        """Competition score of the mean weights: over all images, then per cell type."""
        if not self.stage.validation:
            return {}
        segmenter = Segmenter(
            self.mean, self.card(), str(self.device), self.stage.schedule.precision
        )
        records = tqdm(self.stage.validation, desc="validation", unit="image", leave=False)
        scores = [
            (
                record.cell_type,
                competition_score(
                    record.masks(),
                    segmenter.segment(record.image(), cell_type=record.cell_type).labels,
                ),
            )
            for record in records
        ]
        table = {"score": float(np.mean([score for _, score in scores]))}
        for name in self.stage.cells:
            own = [score for cell_type, score in scores if cell_type == name]
            if own:
                table[f"score_{name}"] = float(np.mean(own))
        return table

    def close_epoch(
        self, losses: Sequence[float], rate: float, scores: Mapping[str, float], seconds: float
    ) -> None:
        """Record the epoch and save; the state goes last, so that it is never ahead of a file."""
        names = ("loss", "loss_flows", "loss_cellprob", "loss_cell_type")
        row = {"epoch": self.epoch, "learning_rate": rate, "seconds": seconds}
        row |= dict(zip(names, losses, strict=True)) | dict(scores)
        self.rows.append(row)
        if self.stage.on_epoch is not None:
            self.stage.on_epoch(row)
        self.last_score = scores.get("score", self.last_score)
        # Not "score > best": the first score must replace NaN.
        if not self.stage.validation or ("score" in scores and not scores["score"] <= self.best):
            self.best, self.best_epoch = scores.get("score", math.nan), self.epoch
            save_network(self.stage.folder / BEST, self.mean.state_dict(), self.card())
        save_network(self.stage.folder / LAST, self.mean.state_dict(), self.card(self.last_score))
        table = pd.DataFrame(self.rows).to_csv(index=False, lineterminator="\n")
        write_text(self.stage.folder / METRICS, table)
        self.save()

    def card(self, score: float | None = None) -> Card:
        """The card of the weights as they stand."""
        score = self.best if score is None else score
        progress = {"epoch": self.epoch, "validation_score": None if math.isnan(score) else score}
        return Card(self.network.config, self.stage.cells, dict(self.stage.provenance) | progress)

    def save(self) -> None:
        """Keep all that resuming needs."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"mean.{k}": v for k, v in self.mean.state_dict().items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value for key, value in values.items()}
        counters = {
            "epoch": self.epoch,
            "updates": self.updates,
            "best": None if math.isnan(self.best) else self.best,
            "best_epoch": self.best_epoch,
            "rows": self.rows,
            "scaler": self.scaler.state_dict(),
        }
        save_tensors(self.stage.folder / STATE, tensors, json.dumps(counters))

    def load(self) -> None:
        """Take up where :meth:`save` left off."""
        path = self.stage.folder / STATE
        tensors, text = read_tensors(path)
        try:
            counters = json.loads(text or "")
            self.network.load_state_dict(_part(tensors, "network."))
            self.mean.load_state_dict(_part(tensors, "mean."))
            self.optimiser.load_state_dict(self._optimiser_state(_part(tensors, "optimiser.")))
            self.scaler.load_state_dict(counters["scaler"])
            self.epoch, self.updates = counters["epoch"], counters["updates"]
            self.best = math.nan if counters["best"] is None else counters["best"]
            self.best_epoch, self.rows = counters["best_epoch"], counters["rows"]
        except (ValueError, KeyError, RuntimeError, TypeError) as error:
            raise FlowsegError(
                "does not fit this run", file=path, remedy="start over in another --out folder"
            ) from error
        self.last_score = next(
            (row["score"] for row in reversed(self.rows) if "score" in row), math.nan
        )
        _log.info("resuming after epoch %d of %d", self.epoch, self.stage.schedule.epochs)

    def _optimiser_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Its state from tensors by "INDEX.NAME", each laid out in memory as its weight is.

        The fused optimiser walks weight and moments side by side, whatever their strides say.
        """
        weights = list(self.network.parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, name = key.split(".")
            # A copy in any case: what was read is a view of the file, which will be replaced.
            home = torch.empty_like(weights[int(index)] if tensor.ndim else tensor)
            state.setdefault(int(index), {})[name] = home.copy_(tensor)
        return {"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]}

    @torch.no_grad()
    def _average(self) -> None:
        """Move the mean weights; a young mean moves faster, so that it forgets the start."""
        self.updates += 1
        decay = min(self.stage.schedule.ema, self.updates / (self.updates + 9))
        for mean, own in zip(
            self.mean.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(own, 1 - decay)
            else:
                mean.copy_(own)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _workers(schedule: ScheduleConfig, device: torch.device) -> int:
    if schedule.workers is not None:
        return schedule.workers
    return 0 if device.type == "cpu" else min(8, max(1, (torch.get_num_threads() or 2) - 1))


def _fused(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda")
