"""Two processes learn what one with the doubled batch learns; one does not outlive the other."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist

import flowseg
from flowseg.errors import FlowsegError
from flowseg.network.checkpoint import read_tensors
from flowseg.training import distributed
from flowseg.training.distributed import distributed_session, from_rank_zero
from flowseg.training.stage import Stage
from flowseg.training.trainer import train_stage
from helpers.one_of_two import with_batch, without_statistics
from helpers.training import CPU, network

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[1] / "helpers" / "one_of_two.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment(**more: str) -> dict[str, str]:
    home = str(Path(flowseg.__file__).parents[1])
    return (
        os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((home, str(WORKER.parents[1])))}
        | more
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def folder(stage: Stage, tmp_path: Path) -> Path:
    (tmp_path / "stage.pickle").write_bytes(pickle.dumps(stage))
    return tmp_path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors = read_tensors(folder / "state.safetensors")[0]
    return {key: value for key, value in tensors.items() if key.startswith("ema/module.")}


def test_two_processes_learn_like_one_with_twice_the_batch(stage: Stage, folder: Path) -> None:
    command = [*TORCHRUN, str(WORKER), "train", str(folder)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    train_stage(with_batch(stage, folder / "one", 4), network(), CPU, resume=False)
    # Each process normalises by its own half of the crops, which moves the losses a little.
    one, two = (pd.read_csv(folder / name / "metrics.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=0.05)
    assert two["learning_rate"].equals(one["learning_rate"])
    # Without normalisation only the order of the sums is left.
    train_stage(
        with_batch(stage, folder / "alone", 4), without_statistics(network()), CPU, resume=False
    )
    alone, plain = (pd.read_csv(folder / name / "metrics.csv") for name in ("alone", "plain"))
    for column in ("loss", "loss_flows", "loss_cellprob", "loss_cell_type", "score"):
        np.testing.assert_allclose(plain[column], alone[column], rtol=1e-4)
    expected, found = weights(folder / "alone"), weights(folder / "plain")
    assert all(torch.allclose(expected[key], found[key], atol=1e-4) for key in expected)
    # And a run that is taken up again after an epoch or a step ends with the same bytes.
    for name in ("best.safetensors", "last.safetensors"):
        for run in ("resumed", "stopped"):
            assert (folder / run / name).read_bytes() == (folder / "two" / name).read_bytes()


def test_the_death_of_one_process_ends_the_other_with_one_line(folder: Path) -> None:
    port = free_port()
    both = [
        subprocess.Popen(
            [sys.executable, str(WORKER), "die", str(folder)],
            env=environment(
                RANK=number,
                LOCAL_RANK=number,
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    try:
        assert both[1].wait(600) == -9
        said = both[0].communicate(timeout=600)[1]
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert both[0].returncode == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("rank 0 of 2 ends because another has ended"), said
    assert "Traceback" not in said


def test_no_thread_of_a_group_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Such a thread once aborted a process that had done its work: it let go of a Python object
    # while the interpreter was ending.
    here = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "under_torchrun", lambda: True)
    groups: list[weakref.ref[object]] = []

    def meet(end: Exception | None) -> None:
        with distributed_session("cpu"):
            groups.extend([weakref.ref(distributed._control_group), weakref.ref(dist.group.WORLD)])
            assert from_rank_zero(lambda: "a message") == "a message"
            if end is not None:
                raise end

    meet(None)
    with pytest.raises(FlowsegError, match="an end"):
        meet(FlowsegError("an end"))
    assert [group() for group in groups] == [None] * 4


def test_what_cannot_be_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(FlowsegError, match="start all of them with torchrun"),
        distributed_session("cpu"),
    ):
        pass
