"""Loops compiled by numba, and the threads that run them.

Numba's own parallel loops are not used: its default layers abort the process when two Python
threads enter them at once (workqueue) or after a fork (OpenMP), and both happen in training.
Compiled functions release the GIL instead, and `in_threads` runs them on plain threads that live as
long as the call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")

_ROOM = 2**20  # bytes; the machine code of one module is less

_limit: int | None = None
_own = threading.local()


def jit(function: Function | None = None, **options: Any) -> Any:
    """Compile to machine code without the GIL, cached on disk where there is a place for it.

    Used as a decorator; `options` go to `numba.njit`, for example ``fastmath={"contract"}``. A
    read-only install without a user cache folder, and a full disk, compile anew in every process.

    Examples
    --------
    >>> @jit
    ... def double(x):
    ...     return 2 * x
    >>> double(21)
    42
    """
    if function is None:
        return lambda later: jit(later, **options)
    with suppress(RuntimeError):  # numba finds no folder to cache in that can be written
        compiled = numba.njit(function, nogil=True, cache=True, **options)
        if _has_room(compiled.stats.cache_path):
            return compiled
    return numba.njit(function, nogil=True, **options)


def keeps_machine_code() -> bool:
    """Whether what `jit` compiles is kept on the disk for the next process."""
    return jit(lambda: None).stats.cache_path is not None


@cache
def _has_room(folder: str) -> bool:
    """Whether machine code can be kept in a folder; numba would end the call on a full disk."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(_ROOM))
    except OSError:
        return False
    return True


def threads() -> int:
    """How many threads `in_threads` uses here: `set_threads`, or else the cores of this process.

    The processes that torchrun starts on one machine share its cores, and so do threads that call
    `share_threads`.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    count = _limit or int(numba.config.NUMBA_NUM_THREADS) // processes
    return max(1, count // getattr(_own, "sharers", 1))


def share_threads(sharers: int) -> None:
    """Say that this thread is one of several that call `in_threads` side by side."""
    _own.sharers = sharers


def set_threads(count: int | None) -> None:
    """Limit the threads of this process, such as to 1 in a loader worker; None lifts the limit."""
    global _limit  # noqa: PLW0603
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1 but is {count}")
    _limit = count


class Workers(ThreadPoolExecutor):
    """So many threads, all started at once, which share the cores.

    Where memory lacks even for the note that a call has failed, its thread dies, and its future
    never ends: wait for it by `result_of` alone.
    """

    def __init__(self, count: int) -> None:
        members: list[threading.Thread] = []

        def join() -> None:
            members.append(threading.current_thread())
            share_threads(count)

        super().__init__(count, initializer=join)
        self._members = members
        all_started = threading.Event()
        try:
            for _ in range(count):
                self.submit(all_started.wait)  # while no thread is idle, the pool starts another
        finally:
            all_started.set()

    def lost_one(self) -> bool:
        """Whether one of the threads has ended, which none does before the pool is shut down."""
        return not all(member.is_alive() for member in self._members)

    def result_of(self, future: Future[Result]) -> Result:
        """The result of a call, or its error; MemoryError where its thread may have died."""
        while not future.done():
            with suppress(NotYetError):
                future.exception(timeout=1)
            # In this order: a thread that has ended sets nothing any more.
            if self.lost_one() and not future.done():
                raise MemoryError("a thread has died")
        return future.result()


def in_threads(work: Callable[[int], Any], tasks: Sequence[int] | int) -> None:
    """Call `work` for each task, on `threads()` threads; the order of the calls is left open.

    Tasks are numbers, the longest first if they differ; a number n means 0..n-1. They must not
    write to the same place. A compiled function in `work` releases the GIL.
    """
    numbers = range(tasks) if isinstance(tasks, int) else tasks
    workers = min(threads(), len(numbers))
    if workers <= 1:
        for task in numbers:
            work(task)
        return
    with Workers(workers) as pool:
        for future in [pool.submit(work, task) for task in numbers]:
            pool.result_of(future)
