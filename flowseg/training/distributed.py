"""Distributed training under torchrun: process group, collectives, what rank zero does alone.

Each rank takes its share of every batch, and gradients are averaged before every step, so that all
ranks hold the same weights. Rank zero alone writes files. Without a process group the world size is
1, and no function here communicates.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from flowseg.errors import FlowsegError, Stopped, as_user_error
from flowseg.network.device import local_device, pick_device, torchrun_rank

Value = TypeVar("Value")

_TIMEOUT = timedelta(days=30)
"""How long ranks wait for rank zero, which may itself wait for another training's lock."""

_control_group: dist.ProcessGroup | None = None


@contextmanager
def distributed_session(device: str) -> Iterator[torch.device]:
    """Join the process group under torchrun and leave it at the end; yields this rank's device.

    With "auto" or "cuda" each rank takes the CUDA device of its local rank.
    """
    rank_device = pick_device(local_device(device))
    if rank_device.index is not None:  # torch's own threads take the current device
        torch.cuda.set_device(rank_device)
    if not under_torchrun() or dist.is_initialized():
        yield rank_device
        return
    _join(rank_device)
    log = logging.getLogger("flowseg")
    level = log.level
    if not is_rank_zero():
        log.setLevel(logging.WARNING)
    try:
        yield rank_device
    except (Exception, Stopped):
        if rank_device.type == "cpu":  # NCCL would wait for ranks that may have ended
            _leave()
        raise
    else:
        _leave()
    finally:
        log.setLevel(level)


def under_torchrun() -> bool:
    """Whether torchrun started this process beside others."""
    return torchrun_rank() is not None


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if _has_group() else 1


def rank() -> int:
    """The rank of this process, 0 ... `world_size()` - 1."""
    return dist.get_rank() if _has_group() else 0


def is_rank_zero() -> bool:
    """Whether this is the rank that writes files."""
    return rank() == 0


def hides_progress() -> bool:
    """Whether to show no progress bars: after ``--quiet``, and on all ranks but zero."""
    return not is_rank_zero() or "TQDM_DISABLE" in os.environ


def from_rank_zero(call: Callable[[], Value]) -> Value:
    """What `call` returns on rank zero, broadcast to all ranks, which wait for it."""
    if not _has_group():
        return call()
    values = [call() if is_rank_zero() else None]
    with _clear_errors():
        dist.broadcast_object_list(values, src=0, group=_control_group)
    return cast(Value, values[0])


@contextmanager
def on_rank_zero(context: AbstractContextManager[Value]) -> Iterator[Value]:
    """Enter `context` on rank zero alone; every rank gets the value that it yields."""
    with ExitStack() as stack:
        yield from_rank_zero(lambda: stack.enter_context(context))


def gather(value: Value) -> list[Value]:
    """The values of all ranks, by rank, on every rank."""
    if not _has_group():
        return [value]
    values: list[Value | None] = [None] * world_size()
    with _clear_errors():
        dist.all_gather_object(values, value, group=_control_group)
    return cast(list[Value], values)


def assert_same_on_all_ranks(*values: object) -> None:
    """Refuse to train where rank zero has other values, such as settings, than this rank."""
    if from_rank_zero(lambda: values) != values:
        raise FlowsegError(
            f"rank {rank()} of {world_size()} has other settings or other images than rank 0",
            remedy="give all ranks the same command and the same data",
        )


def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
    """Replace float tensors by their means over all ranks, the same bits on each."""
    if not _has_group():
        return
    tensors = list(tensors)
    # One bucket: most tensors are small.
    bucket = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _clear_errors():
        dist.all_reduce(bucket)
    bucket /= world_size()
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, mean in zip(tensors, torch.split(bucket, sizes), strict=True):
        tensor.copy_(mean.view(tensor.shape))


def meet() -> None:
    """Wait for all ranks: where one has ended, the others say so, which NCCL would hide."""
    if _has_group():
        with _clear_errors():
            dist.barrier(group=_control_group)


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _join(device: torch.device) -> None:
    global _control_group  # noqa: PLW0603
    backends = {"cpu": "gloo", "cuda": "nccl"}
    if device.type not in backends:
        raise FlowsegError(
            f"distributed training cannot use the device {device.type!r}",
            remedy="start one process, or use --device cpu",
        )
    try:
        dist.init_process_group(
            backends[device.type], device_id=device if device.type == "cuda" else None
        )
        _control_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise as_user_error(error) or FlowsegError(
            f"the other ranks of this training cannot be reached: {error}",
            remedy="start all of them with torchrun",
        ) from error


def _leave() -> None:
    # A group ends its threads with its last reference. Those of one that outlives the interpreter
    # still hold Python objects, and letting go of them then aborts the process.
    global _control_group  # noqa: PLW0603
    _control_group = None
    dist.destroy_process_group()


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise as_user_error(error) or FlowsegError(
            f"rank {rank()} of {world_size()} ends because another has ended or cannot be reached",
            remedy="see the message of that one, then start all ranks again with --resume",
        ) from error
