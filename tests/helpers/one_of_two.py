"""What each process of test_distributed.py does; started by torchrun or by hand."""

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

from flowseg.errors import FlowsegError
from flowseg.network.unet import FlowNetwork
from flowseg.training import distributed
from flowseg.training import trainer as loop
from flowseg.training.distributed import (
    all_reduce_mean,
    distributed_session,
    from_rank_zero,
    gather,
    rank,
    world_size,
)
from flowseg.training.run_folder import STATE
from flowseg.training.trainer import Stage, train_stage
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


def talk() -> None:
    """The messages themselves."""
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


def train(stage: Stage, folder: Path, where: torch.device) -> None:
    """The same stage with and without normalisation, and once more from its middle."""

    def remember(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:  # before it is saved: the state is that after epoch 1
            shutil.copytree(folder / "two", folder / "resumed")

    whole = replace(with_batch(stage, folder / "two", 2), on_epoch=remember)
    model = network()
    train_stage(whole, model, where, resume=False)
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    assert len(set(gather(hashlib.sha256(weights).digest()))) == 1
    assert from_rank_zero((folder / "resumed" / STATE).is_file)
    train_stage(with_batch(stage, folder / "resumed", 2), network(99), where, resume=True)
    plain = with_batch(stage, folder / "plain", 2)
    train_stage(plain, without_statistics(network()), where, resume=False)


def die(stage: Stage, folder: Path, where: torch.device) -> None:
    """The second process is killed in its sixth step."""
    steps = 0

    def counted(*args: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 6 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        all_reduce_mean(*args)  # type: ignore

    loop.all_reduce_mean = counted  # type: ignore
    train_stage(with_batch(stage, folder / "dying", 2), network(), where, resume=False)


def main(job: str, folder: Path) -> None:
    stage: Stage = pickle.loads((folder / "stage.pickle").read_bytes())
    with distributed_session("cpu") as where:
        if job == "train":
            talk()
            train(stage, folder, where)
        else:
            die(stage, folder, where)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except FlowsegError as error:
        raise SystemExit(f"{error}") from error
