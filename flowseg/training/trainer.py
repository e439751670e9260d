"""One stage of training, from the first step to the last, resumable after any step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, cast

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from flowseg.errors import FlowsegError, Stopped, out_of_memory
from flowseg.inference.segmenter import Segmenter
from flowseg.io.tables import write_table
from flowseg.network.architecture import Architecture
from flowseg.network.checkpoint import Card, save_network
from flowseg.network.device import autocast, compute_exactly, memory_format, pick_precision
from flowseg.network.losses import Losses, flow_loss
from flowseg.training.averaging import average_weights
from flowseg.training.batches import (
    Batch,
    batches,
    loader_processes,
    report_worker_crash,
)
from flowseg.training.distributed import (
    all_reduce_mean,
    from_rank_zero,
    gather,
    hides_progress,
    is_rank_zero,
    meet,
    rank,
    world_size,
)
from flowseg.training.optimiser import MuonAdamW, learning_rate
from flowseg.training.run_folder import BEST, LAST, METRICS, STATE
from flowseg.training.stage import Stage, StageResult
from flowseg.training.state import read_state, write_state
from flowseg.training.stopping import stop_on_signal
from flowseg.training.timing import Clock, Forecast, epoch_in_words, where_time_went
from flowseg.training.validation import mean_scores, validation_scores

_RANKS = "ranks"
"""Name of the part of a state that each rank has of its own; none at the end of an epoch."""

_STEPS_APART = 8
"""Steps after which ranks ask each other whether to stop."""

_log = logging.getLogger(__name__)


def train_stage(
    stage: Stage, network: Architecture, device: torch.device, resume: bool
) -> StageResult:
    """Train `network` through a stage and leave its best and last weights in the folder.

    With `resume` it continues from the folder's state. Crop i is a function of the seed and i alone
    and the learning rate one of the step, so that a resumed stage ends with the weights of an
    undisturbed one. After SIGTERM or SIGINT the step is ended, the state saved, and
    :class:`flowseg.errors.Stopped` raised.

    Several processes (see :mod:`flowseg.training.distributed`) train on the crops that one process
    with a batch as large as all of theirs would take; each normalises its share of the batch by
    itself.
    """
    compute_exactly(device)
    trainer = Trainer(stage, network, device)
    trainer.start(resume)
    source = trainer.batches()
    steps = trainer.steps_per_epoch
    total, done = stage.schedule.epochs * steps, trainer.steps_done
    bar = tqdm(
        total=total,
        initial=done,
        desc=stage.name,
        unit="step",
        disable=hides_progress(),
    )
    forecast = Forecast(stage.name, total - done, steps, stage.runs)
    with stop_on_signal() as stopping, logging_redirect_tqdm(), bar:

        def on_step() -> None:
            bar.update()
            forecast.step()
            trainer.keep_or_stop(stopping())

        def on_image() -> None:
            if stopping() and world_size() == 1:  # else the ranks stop after the next steps
                trainer.stop()

        try:
            with report_worker_crash():
                while trainer.epoch < stage.schedule.epochs:
                    clock = Clock()
                    losses = trainer.train_epoch(source, clock, on_step)
                    with clock.measure("validating"):
                        scores = trainer.validate(on_image)
                    trainer.finish_epoch(losses, scores, clock)
                    bar.set_postfix(trainer.progress())
        except FlowsegError:
            # Who stops this process may have stopped its loader processes as well.
            if not stopping() or world_size() > 1:
                raise
            trainer.stop()
    _log.info("%s: %s", stage.name, where_time_went(trainer.rows))
    score = math.nan if trainer.best_score is None else trainer.best_score
    return StageResult(score, trainer.best_epoch, sum(row["seconds"] for row in trainer.rows))


class Trainer:
    """Everything that changes while a stage runs: weights, their average, optimiser, scores."""

    def __init__(self, stage: Stage, network: Architecture, device: torch.device) -> None:
        self.stage, self.schedule, self.device = stage, stage.schedule, device
        self.dtype = pick_precision(self.schedule.precision, device)
        # torch's own type hints leave memory_format out.
        self.network = network.to(device).to(memory_format=memory_format(device))  # type: ignore[call-overload]
        # Shares its weights; the average, which validates, need not be fast.
        self.forward = torch.compile(self.network) if self.schedule.compile else self.network
        self.ema = average_weights(self.network, self.schedule.ema_decay)
        products = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32
        self.optimiser = MuonAdamW(self.network, self.schedule.weight_decay, products)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.epoch = 0  # finished ones
        self.step = 0  # those done in the epoch after them
        self.sums = torch.zeros(len(Losses._fields), device=device)  # of their losses
        self.best_score: float | None = None
        self.best_epoch = 0
        self.rows: list[dict[str, float]] = []
        self._saved = time.monotonic()

    @property
    def averaged(self) -> Architecture:
        """The network with the averaged weights."""
        return cast(Architecture, self.ema.module)

    @property
    def global_batch_size(self) -> int:
        """Crops of one step in all processes together."""
        return self.schedule.batch_size * world_size()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return -(-self.schedule.crops_per_epoch // self.global_batch_size)

    @property
    def steps_done(self) -> int:
        """Optimiser steps since the stage began."""
        return self.epoch * self.steps_per_epoch + self.step

    def start(self, resume: bool) -> None:
        """Start from the network as it is or from the saved state; the same on all ranks."""
        if resume:
            self.load_state()
            return
        self.network.load_state_dict(from_rank_zero(self.network.state_dict))
        self.ema.update_parameters(self.network)  # the first update copies
        if is_rank_zero():
            self.save_state()

    def batches(self) -> Iterator[Batch]:
        """This rank's share of all crops from the next step on."""
        stage, size = self.stage, self.global_batch_size
        first = self.steps_done * size + rank() * self.schedule.batch_size
        end = self.schedule.epochs * self.steps_per_epoch * size
        return batches(
            stage.crops(),
            range(first, end, size),
            self.schedule.batch_size,
            loader_processes(
                self.schedule.workers,
                self.device,
                self.schedule.batch_size,
                stage.config.augment.crop_size,
            ),
            self.device.type == "cuda",
        )

    def train_epoch(
        self, source: Iterator[Batch], clock: Clock, on_step: Callable[[], object]
    ) -> list[float]:
        """Train to the end of the epoch; its mean losses, in the order of `Losses`."""
        self.network.train()
        while self.step < self.steps_per_epoch:
            with clock.measure("waiting"):
                batch = next(source)
            with clock.measure("computing"):
                self.sums += self.train_step(batch, self.learning_rate(self.step))
            self.step += 1
            on_step()
        with clock.measure("computing"):  # what a GPU has not finished yet
            meet()
            # The weights are the same on all ranks, but each has normalised by its own crops.
            models = (self.network, self.averaged)
            statistics = (buffer for model in models for buffer in model.buffers())
            all_reduce_mean([self.sums, *(b for b in statistics if b.is_floating_point())])
            losses: list[float] = (self.sums / self.steps_per_epoch).tolist()
        if not math.isfinite(losses[0]):
            raise FlowsegError(
                f"the loss is no longer a number in epoch {self.epoch + 1}",
                remedy="lower training.learning_rate or set training.precision to float32",
            )
        return losses

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step of the epoch after the finished ones."""
        total = self.schedule.epochs * self.steps_per_epoch
        return learning_rate(self.epoch * self.steps_per_epoch + step, total, self.schedule)

    def train_step(self, batch: Batch, rate: float) -> Tensor:
        """One step of the optimiser, then of the average; the losses of the batch."""
        # Only CUDA keeps what it still has to copy: MPS would read memory that is free again.
        pinned = self.device.type == "cuda"
        batch = Batch(*(tensor.to(self.device, non_blocking=pinned) for tensor in batch))
        images = batch.images.contiguous(memory_format=memory_format(self.device))
        with autocast(self.device, self.dtype):
            output = self.forward(images)
        losses: Losses = flow_loss(
            output, batch.flows, batch.inside, batch.cell_type, self.network.config.flow_scale
        )
        self.network.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()  # type: ignore[no-untyped-call]
        all_reduce_mean(p.grad for p in self.network.parameters() if p.grad is not None)
        self.optimiser.set_learning_rate(rate)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.ema.update_parameters(self.network)
        return torch.stack(losses).detach()

    def validate(self, on_image: Callable[[], object]) -> dict[str, float]:
        """Competition score of the averaged weights: mean over all images, then by cell type.

        Empty where no validation is due; the ranks share the images.
        """
        records, schedule, epoch = self.stage.validation, self.schedule, self.epoch + 1
        due = epoch == schedule.epochs or epoch % schedule.validate_every == 0
        if not due or not records:
            return {}
        segmenter = Segmenter(self.averaged, self.card(), str(self.device), schedule.precision)
        scores = validation_scores(segmenter, records, on_image)
        return mean_scores(records, scores, list(self.stage.config.cell_types))

    def finish_epoch(
        self, losses: Sequence[float], scores: Mapping[str, float], clock: Clock
    ) -> None:
        """Record the epoch, and save weights and state on rank zero.

        The state goes last, so that it is never ahead of another file.
        """
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.zero_()
        names = ("loss", "loss_flows", "loss_cellprob", "loss_cell_type")
        row = {"epoch": self.epoch, "learning_rate": self.learning_rate(-1), **clock.read()}
        row |= dict(zip(names, losses, strict=True)) | dict(scores)
        self.rows.append(row)
        score = scores.get("score")
        improved = score is not None and (self.best_score is None or score > self.best_score)
        if improved or not self.stage.validation:
            self.best_score, self.best_epoch = score, self.epoch
        if not is_rank_zero():
            return
        if self.stage.on_epoch is not None:
            self.stage.on_epoch(row)
        folder, weights = self.stage.folder, self.averaged.state_dict()
        if self.best_epoch == self.epoch:
            save_network(folder / BEST, weights, self.card())
        save_network(folder / LAST, weights, self.card(last=True))
        write_table(folder / METRICS, pd.DataFrame(self.rows))
        self.save_state()
        _log.info("%s: %s", self.stage.name, epoch_in_words(self.rows, self.schedule.epochs))

    def keep_or_stop(self, stopping: bool) -> None:
        """Save the state where that is due; where a signal has come, save it and stop.

        All ranks do so after the same step, whichever of them the signal has come to.
        """
        if world_size() > 1 and self.steps_done % _STEPS_APART:
            return
        due = time.monotonic() - self._saved > 60 * self.schedule.save_minutes
        stop, save = (any(told) for told in zip(*gather((stopping, due)), strict=True))
        if stop:
            self.stop()
        if save:
            self.save_within_epoch()

    def stop(self) -> NoReturn:
        """Save the state and raise `Stopped`; on all ranks."""
        self.save_within_epoch()
        steps = f"{self.step} of {self.steps_per_epoch} steps of epoch {self.epoch + 1}"
        raise Stopped(f"stopped after {steps}; continue with --resume")

    def save_within_epoch(self) -> None:
        """Save the state after any step, with what each rank has of its own; on all ranks."""
        models = (self.network, self.averaged)
        own = {f"buffer{i}": b for i, b in enumerate(b for m in models for b in m.buffers())}
        own = {name: value.cpu() for name, value in (own | {"sums": self.sums}).items()}
        ranks = {str(index): values for index, values in enumerate(gather(own))}
        if is_rank_zero():
            self.save_state(ranks)
        self._saved = time.monotonic()

    def progress(self) -> dict[str, str]:
        """What the progress bar shows: the loss, and the last and best scores once validated."""
        scores = [row["score"] for row in self.rows if "score" in row]
        shown = {"loss": self.rows[-1]["loss"]}
        if scores and self.best_score is not None:
            shown |= {"score": scores[-1], "best": self.best_score}
        return {name: f"{value:.3f}" for name, value in shown.items()}

    def card(self, *, last: bool = False) -> Card:
        """The card of the averaged weights, with the best score or that of the last epoch."""
        score = self.rows[-1].get("score") if last else self.best_score
        progress = {"epoch": self.epoch, "validation_score": score}
        provenance = dict(self.stage.provenance) | progress
        config = self.stage.config
        return Card(self.network.config, config.cell_types, provenance, config.normalization)

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs: nested mappings of tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "rows": self.rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        if unknown := state.keys() - self.state_dict().keys() - {_RANKS}:
            raise ValueError(f"unknown: {unknown}")
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state.get("optimiser", {}))
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.epoch, self.step, self.rows = state["epoch"], state.get("step", 0), state["rows"]
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        if len(self.rows) != self.epoch or not all("loss" in row for row in self.rows):
            raise ValueError("not a row of losses for each epoch")
        if not self.step:
            return
        own = state[_RANKS][str(rank())]
        self.sums.copy_(own["sums"])
        models = (self.network, self.averaged)
        for index, buffer in enumerate(b for model in models for b in model.buffers()):
            buffer.copy_(own[f"buffer{index}"])

    def save_state(self, ranks: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Write the state, within an epoch with that of the `ranks`, to the stage's folder."""
        write_state(self.stage.folder / STATE, self.state_dict() | {_RANKS: ranks})
        self._saved = time.monotonic()

    def load_state(self) -> None:
        """Load the state from the stage's folder, unless it is another network's or damaged."""
        path = self.stage.folder / STATE
        try:
            self.load_state_dict(from_rank_zero(lambda: read_state(path)))
        except (ValueError, LookupError, RuntimeError, TypeError, AttributeError) as error:
            raise out_of_memory(error, path) or FlowsegError(
                "does not fit this run", file=path, remedy="start over in another --out folder"
            ) from error
        steps = f" and {self.step} steps" if self.step else ""
        _log.info("resuming after epoch %d of %d%s", self.epoch, self.schedule.epochs, steps)
