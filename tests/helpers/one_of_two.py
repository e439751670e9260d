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
from flowseg.training.distributed import average, from_first, gather, joined, processes, rank
from flowseg.training.run_folder import STATE
from flowseg.training.trainer import Stage, fit
from helpers.training import CONFIG, network


def with_batch(stage: Stage, folder: Path, size: int) -> Stage:
    folder.mkdir(exist_ok=True)
    schedule = replace(CONFIG.training, batch_size=size, epochs=3, crops=16)
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
    assert processes() == 2
    assert distributed.is_first() == (rank() == 0)
    assert gather(rank()) == [0, 1]
    assert from_first(lambda: f"from {rank()}") == "from 0"
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T * (1 + 2 * rank())
    other = torch.tensor(float(rank()))
    average([one, other])
    assert one.tolist() == [[2.0, 6.0], [4.0, 8.0]]
    assert other == 0.5
    with joined("cpu"):  # shares the group and leaves it open
        pass
    assert gather(0) == [0, 0]
    distributed.check_alike("settings", 1)
    if rank() == 0:
        distributed.check_alike(rank())
    else:
        with pytest.raises(FlowsegError, match="process 2 of 2 has other settings"):
            distributed.check_alike(rank())


def train(stage: Stage, folder: Path, where: torch.device) -> None:
    """The same stage with and without normalisation, and once more from its middle."""

    def remember(row: Mapping[str, float]) -> None:
        if row["epoch"] == 2:  # before it is saved: the state is that after epoch 1
            shutil.copytree(folder / "two", folder / "resumed")

    whole = replace(with_batch(stage, folder / "two", 2), on_epoch=remember)
    model = network()
    fit(whole, model, where, resume=False)
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    assert len(set(gather(hashlib.sha256(weights).digest()))) == 1
    assert from_first((folder / "resumed" / STATE).is_file)
    fit(with_batch(stage, folder / "resumed", 2), network(99), where, resume=True)
    plain = with_batch(stage, folder / "plain", 2)
    # The mean is a network of its own, made from the config.
    loop.FlowNetwork = lambda *args: without_statistics(FlowNetwork(*args))  # type: ignore
    fit(plain, without_statistics(network()), where, resume=False)


def die(stage: Stage, folder: Path, where: torch.device) -> None:
    """The second process is killed in its sixth step."""
    steps = 0

    def counted(*args: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 6 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        average(*args)  # type: ignore

    loop.average = counted  # type: ignore
    fit(with_batch(stage, folder / "dying", 2), network(), where, resume=False)


def main(job: str, folder: Path) -> None:
    stage: Stage = pickle.loads((folder / "stage.pickle").read_bytes())
    with joined("cpu") as where:
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
