"""A training that a signal stops, anywhere, ends like one left in peace when it is resumed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowseg.errors import Stopped
from flowseg.training import trainer, validation
from flowseg.training.batches import batches
from flowseg.training.stage import Stage
from flowseg.training.stopping import stop_on_signal
from flowseg.training.trainer import Trainer, train_stage
from helpers.runs import differences
from helpers.training import CPU, in_folder, network

STEPS = 3  # of an epoch


def signal_at(call: int, number: int, original: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which sends this process a signal before its n-th call."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    return wrapped


def resumed_equals_undisturbed(stage: Stage, whole: Path) -> bool:
    train_stage(in_folder(stage, whole), network(), CPU, resume=False)
    train_stage(stage, network(99), CPU, resume=True)
    return not differences(whole, stage.folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, STEPS, STEPS + 2])
def test_the_step_is_ended_and_saved(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", signal_at(step, number, Trainer.train_step))
        done, epoch = (step - 1) % STEPS + 1, (step - 1) // STEPS + 1
        with pytest.raises(Stopped, match=f"{done} of 3 steps of epoch {epoch}; continue with --r"):
            train_stage(stage, network(), CPU, resume=False)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert resumed_equals_undisturbed(stage, tmp_path / "whole")


@pytest.mark.slow
def test_a_validation_need_not_be_waited_for(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = signal_at(1, signal.SIGTERM, validation.competition_score)
    with monkeypatch.context() as patch:
        patch.setattr(validation, "competition_score", scored)
        with pytest.raises(Stopped, match="3 of 3 steps of epoch 1"):
            train_stage(stage, network(), CPU, resume=False)
    assert resumed_equals_undisturbed(stage, tmp_path / "whole")


@pytest.mark.slow
def test_a_kill_costs_no_more_than_the_minutes_between_two_saves(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = replace(stage, schedule=replace(stage.schedule, save_minutes=1e-9))
    killed, steps = RuntimeError("stands for a kill"), 0
    original = Trainer.train_step

    def dying(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == STEPS + 3:
            raise killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(RuntimeError, match="stands for a kill"):
            train_stage(stage, network(), CPU, resume=False)
    resumed = Trainer(stage, network(99), CPU)
    resumed.start(resume=True)
    assert resumed.steps_done == STEPS + 2
    assert resumed_equals_undisturbed(stage, tmp_path / "whole")


@pytest.mark.slow
def test_loader_processes_that_the_signal_reaches_too_do_not_matter(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a terminal or a scheduler sends it to all processes of a job."""
    stage = replace(stage, schedule=replace(stage.schedule, workers=1))

    def dead(*args: Any) -> Any:
        source = batches(*args)
        yield next(source)
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "batches", dead)
        with pytest.raises(Stopped, match="1 of 3 steps of epoch 1"):
            train_stage(stage, network(), CPU, resume=False)
    assert resumed_equals_undisturbed(stage, tmp_path / "whole")


def test_a_second_signal_ends_at_once() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stop_on_signal() as stopping:
            seen.append(stopping())
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append(stopping())
            os.kill(os.getpid(), signal.SIGINT)
            seen.append(False)

    with pytest.raises(Stopped):
        work()
    assert seen == [False, True]


def test_a_signal_that_nobody_obeyed_ends_the_work_after_the_block() -> None:
    seen: list[str] = []

    def work() -> None:
        with stop_on_signal():
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append("ends")
        seen.append("goes on")

    with pytest.raises(Stopped):
        work()
    assert seen == ["ends"]


def test_other_threads_take_no_signals() -> None:
    seen: list[bool] = []

    def work() -> None:
        with stop_on_signal() as stopping:
            seen.append(stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
