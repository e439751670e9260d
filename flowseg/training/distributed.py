"""One training in several processes, as torchrun starts them.

Each process takes its share of every batch, and their gradients are averaged before every step, so
that all hold the same weights. The first process alone writes files. A training in one process is
the case of one: every function here then does what its name says without talking to anyone.
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

from flowseg.errors import FlowsegError, as_user_error
from flowseg.network.device import local_device, pick_device, torchrun_rank

__all__ = [
    "all_reduce_mean",
    "assert_same_on_all_ranks",
    "distributed_session",
    "from_rank_zero",
    "gather",
    "hides_progress",
    "is_rank_zero",
    "local_world_size",
    "on_rank_zero",
    "rank",
    "under_torchrun",
    "world_size",
]

Value = TypeVar("Value")

_PATIENCE = timedelta(days=30)
"""How long processes wait for the first one, which may itself wait for another training's lock."""

_control_group: dist.ProcessGroup | None = None


@contextmanager
def distributed_session(device: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" or "mps"; of several CUDA devices each process takes its own.

    Yields
    ------
    torch.device
        That of this process.

    Raises
    ------
    FlowsegError
        If the device is not there, or the other processes cannot be reached.
    """
    where = pick_device(local_device(device))
    if not under_torchrun() or dist.is_initialized():
        yield where
        return
    _join(where)
    log = logging.getLogger("flowseg")
    level = log.level
    if not is_rank_zero():
        log.setLevel(logging.WARNING)
    try:
        yield where
    except Exception:
        if where.type == "cpu":  # NCCL would wait for processes that may have gone
            _leave()
        raise
    else:
        _leave()
    finally:
        log.setLevel(level)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return torchrun_rank() is not None


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _together() else 1


def local_world_size() -> int:
    """How many of them share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _together() else 1


def rank() -> int:
    """The number of this process, 0 ... `world_size()` - 1."""
    return dist.get_rank() if _together() else 0


def is_rank_zero() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def hides_progress() -> bool:
    """Whether this process shows no progress bars: after ``--quiet``, or where it is not first."""
    return not is_rank_zero() or "TQDM_DISABLE" in os.environ


def from_rank_zero(call: Callable[[], Value]) -> Value:
    """What `call` returns in the first process, in all of them; the others wait for it."""
    if not _together():
        return call()
    box = [call() if is_rank_zero() else None]
    with _clear_errors():
        dist.broadcast_object_list(box, src=0, group=_control_group)
    return cast(Value, box[0])


@contextmanager
def on_rank_zero(context: AbstractContextManager[Value]) -> Iterator[Value]:
    """Enter `context` on rank zero alone; every rank gets the value that it yields."""
    with ExitStack() as stack:
        yield from_rank_zero(lambda: stack.enter_context(context))


def gather(value: Value) -> list[Value]:
    """The values of all processes, in their order, in all of them."""
    if not _together():
        return [value]
    values: list[Value | None] = [None] * world_size()
    with _clear_errors():
        dist.all_gather_object(values, value, group=_control_group)
    return cast(list[Value], values)


def assert_same_on_all_ranks(*values: object) -> None:
    """Refuse to train where the first process has other settings or images than this one."""
    if from_rank_zero(lambda: values) != values:
        raise FlowsegError(
            f"process {rank() + 1} of {world_size()} has other settings or other images than the "
            "first",
            remedy="give all of them the same command and the same data",
        )


def all_reduce_mean(tensors: Iterable[Tensor]) -> None:
    """Replace float tensors by their means over all processes, the same bits in each."""
    if not _together():
        return
    own = list(tensors)
    # One message instead of many: most tensors are small.
    message = torch.cat([tensor.reshape(-1) for tensor in own])
    with _clear_errors():
        dist.all_reduce(message)
    message /= world_size()
    for tensor, mean in zip(own, torch.split(message, [t.numel() for t in own]), strict=True):
        tensor.copy_(mean.view(tensor.shape))


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _join(where: torch.device) -> None:
    global _control_group  # noqa: PLW0603
    backends = {"cpu": "gloo", "cuda": "nccl"}
    if where.type not in backends:
        raise FlowsegError(
            f"several processes cannot share the device {where.type!r}",
            remedy="start one process, or use --device cpu",
        )
    if where.type == "cuda":
        torch.cuda.set_device(where)
    try:
        dist.init_process_group(backends[where.type])
        _control_group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise as_user_error(error) or FlowsegError(
            f"the other processes of this training cannot be reached: {error}",
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
            f"process {rank() + 1} of {world_size()} ends because another one has ended or cannot "
            "be reached",
            remedy="see what that one says, then start all of them again with --resume",
        ) from error
