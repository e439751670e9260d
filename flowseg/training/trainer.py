"""One stage of training, from the first step to the last, resumable after any epoch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from flowseg.config.schema import CellTypeSettings, Config, ScheduleConfig
from flowseg.data.record import Record
from flowseg.errors import FlowsegError, out_of_memory
from flowseg.inference.segmenter import Segmenter
from flowseg.io.tables import write_table
from flowseg.metrics.competition import competition_score
from flowseg.network.checkpoint import Card, read_tensors, save_network, save_tensors
from flowseg.network.device import autocast, pick_precision
from flowseg.network.losses import Losses, flow_loss
from flowseg.network.unet import FlowNetwork
from flowseg.training.batches import (
    Batch,
    CropDataset,
    batches,
    loader_processes,
    report_worker_crash,
)
from flowseg.training.distributed import (
    all_reduce_mean,
    from_rank_zero,
    gather,
    is_rank_zero,
    rank,
    world_size,
)
from flowseg.training.optimiser import MuonAdamW
from flowseg.training.run_folder import BEST, LAST, METRICS, STATE
from flowseg.training.timing import Clock, where_time_went

__all__ = ["Stage", "StageResult", "learning_rate", "train_stage"]


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
    cell_types : mapping of str to CellType
        With known diameters; its order numbers the types.
    config : Config
        All settings.
    schedule : ScheduleConfig
        The one of `config` that this stage follows.
    provenance : mapping
        Goes on the card.
    on_epoch : callable, optional
        Told the row of `metrics.csv` of each epoch.
    extra : sequence of Record
        Also trained on, as often as ``config.data.extra_weight`` says.
    """

    name: str
    folder: Path
    training: Sequence[Record]
    validation: Sequence[Record]
    cell_types: Mapping[str, CellTypeSettings]
    config: Config
    schedule: ScheduleConfig
    provenance: Mapping[str, Any]
    on_epoch: Callable[[Mapping[str, float]], None] | None = None
    extra: Sequence[Record] = ()


@dataclass(frozen=True)
class StageResult:
    """How a stage ended; the score is NaN where nothing was validated."""

    score: float
    epoch: int
    seconds: float


def train_stage(
    stage: Stage, network: FlowNetwork, device: torch.device, resume: bool
) -> StageResult:
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
    resumed after an epoch ends with the weights of an undisturbed one. Several processes (see
    :mod:`flowseg.training.distributed`) learn from the crops that one process with a batch as
    large as all of theirs would take; each normalises its share of the batch by itself.
    """
    if device.type == "cuda":
        # Else cuDNN may choose sums whose order changes from run to run.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    schedule = stage.schedule
    run = _Run(stage, network, device)
    run.begin(resume)
    # Of all processes together; each takes its share of the crops of every step.
    batch = schedule.batch_size * world_size()
    steps = -(-schedule.crops_per_epoch // batch)
    total = schedule.epochs * steps
    first = run.epoch * steps * batch + rank() * schedule.batch_size
    source = batches(
        CropDataset(stage.training, stage.cell_types, stage.config, stage.extra, schedule.balance),
        range(first, total * batch, batch),
        schedule.batch_size,
        loader_processes(schedule.workers, device),
        device.type == "cuda",
    )
    bar = tqdm(
        total=total,
        initial=run.epoch * steps,
        desc=stage.name,
        unit="step",
        disable=not is_rank_zero(),
    )
    with report_worker_crash(), bar:
        while run.epoch < schedule.epochs:
            clock = Clock()
            begun = run.epoch * steps
            rates = [learning_rate(begun + step, total, schedule) for step in range(steps)]
            losses = run.learn(source, rates, clock, bar.update)
            run.epoch += 1
            with clock.measure("validating"):
                scores = run.validate()
            run.close_epoch(losses, rates[-1], scores, clock)
            bar.set_postfix(
                loss=f"{losses[0]:.3f}", score=f"{run.last_score:.3f}", best=f"{run.best:.3f}"
            )
    _log.info("%s: %s", stage.name, where_time_went(run.rows))
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
    rise = max(1, round(schedule.warmup_fraction * steps))
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
        # Its weights are those of the network; the mean, which validates, need not be fast.
        self.forward = torch.compile(self.network) if stage.schedule.compile else self.network
        self.mean = FlowNetwork(network.config, len(stage.cell_types)).to(device)
        self.mean.load_state_dict(network.state_dict())
        own = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32
        self.optimiser = MuonAdamW(self.network, stage.schedule.weight_decay, own)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.epoch, self.updates = 0, 0
        self.best, self.best_epoch, self.last_score = math.nan, 0, math.nan
        self.rows: list[dict[str, float]] = []

    def begin(self, resume: bool) -> None:
        """Start from the network as it is or from the state; the same in all processes."""
        if resume:
            self.load()
            return
        weights = from_rank_zero(self.network.state_dict)
        self.network.load_state_dict(weights)
        self.mean.load_state_dict(weights)
        if is_rank_zero():
            self.save()

    def learn(
        self,
        source: Iterator[Batch],
        rates: Sequence[float],
        clock: Clock,
        on_step: Callable[[], object],
    ) -> list[float]:
        """One epoch of a step for each rate; its mean losses."""
        sums = torch.zeros(4, device=self.device)
        self.network.train()
        for rate in rates:
            with clock.measure("waiting"):
                batch = next(source)
            with clock.measure("computing"):
                sums += self.step(batch, rate)
            on_step()
        with clock.measure("computing"):  # what a GPU has not finished yet
            # The weights are one, but each process has normalised by its own crops.
            models = (self.network, self.mean)
            statistics = (buffer for model in models for buffer in model.buffers())
            all_reduce_mean(
                [sums, *(buffer for buffer in statistics if buffer.is_floating_point())]
            )
            losses: list[float] = (sums / len(rates)).tolist()
        if not math.isfinite(losses[0]):
            raise FlowsegError(
                f"the loss is no longer a number in epoch {self.epoch + 1}",
                remedy="lower training.learning_rate or set training.precision to float32",
            )
        return losses

    def step(self, batch: Batch, rate: float) -> Tensor:
        """Learn from one batch; its losses."""
        batch = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        images = batch.images.contiguous(memory_format=torch.channels_last)
        self.optimiser.set_rate(rate)
        with autocast(self.device, self.dtype):
            output = self.forward(images)
        losses: Losses = flow_loss(
            output, batch.flows, batch.inside, batch.cell_type, self.network.config.flow_scale
        )
        self.network.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]
        all_reduce_mean(p.grad for p in self.network.parameters() if p.grad is not None)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._follow()
        return torch.stack(losses).detach()

    def validate(self) -> dict[str, float]:
        """Competition score of the mean weights: over all images, then per cell type.

        Empty where nothing is due; several processes share the images.
        """
        schedule = self.stage.schedule
        due = self.epoch == schedule.epochs or self.epoch % schedule.validate_every == 0
        if not due or not self.stage.validation:
            return {}
        segmenter = Segmenter(
            self.mean, self.card(), str(self.device), self.stage.schedule.precision
        )
        places = range(rank(), len(self.stage.validation), world_size())
        share = {}
        for place in tqdm(
            places, desc="validation", unit="image", leave=False, disable=not is_rank_zero()
        ):
            record = self.stage.validation[place]
            found = segmenter.segment(record.image(), cell_type=record.cell_type).labels
            share[place] = competition_score(record.masks(), found)
        scores = dict(sorted(pair for part in gather(share) for pair in part.items()))
        table = {"score": float(np.mean(list(scores.values())))}
        for name in self.stage.cell_types:
            own = [scores[k] for k, r in enumerate(self.stage.validation) if r.cell_type == name]
            if own:
                table[f"score_{name}"] = float(np.mean(own))
        return table

    def close_epoch(
        self, losses: Sequence[float], rate: float, scores: Mapping[str, float], clock: Clock
    ) -> None:
        """Record the epoch, and save it in the first process."""
        names = ("loss", "loss_flows", "loss_cellprob", "loss_cell_type")
        row = {"epoch": self.epoch, "learning_rate": rate, **clock.read()}
        row |= dict(zip(names, losses, strict=True)) | dict(scores)
        self.rows.append(row)
        self.last_score = scores.get("score", self.last_score)
        # Not "score > best": the first score must replace NaN.
        better = not self.stage.validation or (
            "score" in scores and not scores["score"] <= self.best
        )
        if better:
            self.best, self.best_epoch = scores.get("score", math.nan), self.epoch
        if is_rank_zero():
            self._save_epoch(better)

    def _save_epoch(self, better: bool) -> None:
        """Save; the state goes last, so that it is never ahead of a file."""
        folder, weights = self.stage.folder, self.mean.state_dict()
        if self.stage.on_epoch is not None:
            self.stage.on_epoch(self.rows[-1])
        if better:
            save_network(folder / BEST, weights, self.card())
        save_network(folder / LAST, weights, self.card(self.rows[-1].get("score", math.nan)))
        write_table(folder / METRICS, pd.DataFrame(self.rows))
        self.save()

    def card(self, score: float | None = None) -> Card:
        """The card of the weights as they stand."""
        score = self.best if score is None else score
        progress = {"epoch": self.epoch, "validation_score": None if math.isnan(score) else score}
        return Card(
            self.network.config, self.stage.cell_types, dict(self.stage.provenance) | progress
        )

    def save(self) -> None:
        """Keep all that resuming needs."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"mean.{k}": v for k, v in self.mean.state_dict().items()}
        tensors |= self.optimiser.tensors()
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
        tensors, text = from_rank_zero(lambda: read_tensors(path))
        try:
            counters = json.loads(text or "")
            self.network.load_state_dict(_taken(tensors, "network."))
            self.mean.load_state_dict(_taken(tensors, "mean."))
            self.optimiser.take_up(tensors)
            self.scaler.load_state_dict(counters["scaler"])
            self.epoch, self.updates = counters["epoch"], counters["updates"]
            self.best = math.nan if counters["best"] is None else counters["best"]
            self.best_epoch, self.rows = counters["best_epoch"], counters["rows"]
            scores = [row["score"] for row in self.rows if "score" in row]
        except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
            raise out_of_memory(error, path) or FlowsegError(
                "does not fit this run", file=path, remedy="start over in another --out folder"
            ) from error
        self.last_score = scores[-1] if scores else math.nan
        _log.info("resuming after epoch %d of %d", self.epoch, self.stage.schedule.epochs)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the mean weights; a young mean moves faster, so that it forgets the start."""
        self.updates += 1
        decay = min(self.stage.schedule.ema_decay, self.updates / (self.updates + 9))
        for mean, own in zip(
            self.mean.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(own, 1 - decay)
            else:
                mean.copy_(own)


def _taken(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the prefix; they are taken out."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}
