"""The script of each rank of test_distributed.py; started by torchrun or by hand."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from flowseg.errors import FlowsegError, Stopped
from flowseg.network.unet import FlowNetwork
from flowseg.training import distributed, trainer
from flowseg.training.distributed import (
    all_reduce_mean,
    distributed_session,
    from_rank_zero,
    gather,
    rank,
    world_size,
)
from flowseg.training.run_folder import STATE
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage
from helpers.training import CONFIG, network


def with_batch(stage: Stage, folder: Path, size: int) -> Stage:
    folder.mkdir(exist_ok=True)
    schedule = replace(CONFIG.training, batch_size=size, epochs=3, crops_per_epoch=16)
    return replace(stage, folder=folder, schedule=schedule)


def without_statistics(model: FlowNetwork) -> FlowNetwork:
    """The network in which a batch may be split without changing anything."""
    for block in model.modules():
        for name, child in block.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(block, name, nn.Identity())
    return model


def check_collectives() -> None:
    """Gather, broadcast and mean over two ranks."""
    assert world_size() == 2
    assert distributed.is_rank_zero() == (rank() == 0)
    assert gather(rank()) == [0, 1]
    assert from_rank_zero(lambda: f"from {rank()}") == "from 0"
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T * (1 + 2 * rank())
    other = torch.tensor(float(rank()))
    all_reduce_mean([one, other])
    assert one.tolist() == [[2.0, 6.0], [4.0, 8.0]]
    assert other == 0.5
    with distributed_session("cpu"):  # shares the group and leaves it open
        pass
    assert gather(0) == [0, 0]
    distributed.assert_same_on_all_ranks("settings", 1)
    if rank() == 0:
        distributed.assert_same_on_all_ranks(rank())
    else:
        with pytest.raises(FlowsegError, match="rank 1 of 2 has other settings"):
            distributed.assert_same_on_all_ranks(rank())


def train(stage: Stage, folder: Path, device: torch.device) -> None:
    """The same stage with and without normalisation, and once more from its middle."""

    def copy_after_first_epoch(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:  # before it is saved: the state is that after epoch 1
            shutil.copytree(folder / "two", folder / "resumed")

    undisturbed = replace(with_batch(stage, folder / "two", 2), on_epoch=copy_after_first_epoch)
    model = network()
    train_stage(undisturbed, model, device, resume=False)
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    assert len(set(gather(hashlib.sha256(weights).digest()))) == 1
    assert from_rank_zero((folder / "resumed" / STATE).is_file)
    train_stage(with_batch(stage, folder / "resumed", 2), network(99), device, resume=True)
    stop_and_resume(with_batch(stage, folder / "stopped", 2), device)
    plain = with_batch(stage, folder / "plain", 2)
    train_stage(plain, without_statistics(network()), device, resume=False)


def stop_and_resume(stage: Stage, device: torch.device) -> None:
    """A signal comes to rank 1 alone, and both ranks stop after the same step."""
    trainer._STEPS_APART = 3
    steps = 0

    def counted(*args: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 4 and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        all_reduce_mean(*args)  # type: ignore

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "all_reduce_mean", counted)
        with pytest.raises(Stopped, match="2 of 4 steps of epoch 2; continue with --resume"):
            train_stage(stage, network(), device, resume=False)
    train_stage(stage, network(99), device, resume=True)


def die(stage: Stage, folder: Path, device: torch.device) -> None:
    """Rank 1 is killed in its sixth step."""
    steps = 0

    def counted(*args: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 6 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        all_reduce_mean(*args)  # type: ignore

    trainer.all_reduce_mean = counted  # type: ignore
    train_stage(with_batch(stage, folder / "dying", 2), network(), device, resume=False)


def main(job: str, folder: Path) -> None:
    stage: Stage = pickle.loads((folder / "stage.pickle").read_bytes())
    with distributed_session("cpu") as device:
        if job == "train":
            check_collectives()
            train(stage, folder, device)
        else:
            die(stage, folder, device)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except FlowsegError as error:
        raise SystemExit(f"{error}") from error
