"""The one way to compile a loop and to run it on several threads.

Numba's own parallel loops are not used: its default layers abort the process when two Python
threads enter them at once (workqueue) or after a fork (OpenMP), and both happen in training.
Compiled functions release the GIL instead, and `in_threads` runs them on plain threads that live as
long as the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache

__all__ = ["in_threads", "jit", "set_threads", "threads"]

Function = TypeVar("Function", bound=Callable[..., Any])

_limit: int | None = None


def jit(function: Function | None = None, **options: Any) -> Any:
    """Compile to machine code without the GIL, cached on disk where there is a place for it.

    Parameters
    ----------
    function : callable, optional
        The function; left out where options are given.
    **options
        Passed on to `numba.njit`, for example ``fastmath={"contract"}``.

    Returns
    -------
    callable
        The compiled function, or a decorator.

    Notes
    -----
    A read-only install without a user cache folder, and a full disk, compile anew in every process.

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
    compiled = numba.njit(function, nogil=True, **options)
    # "no locator available" is a RuntimeError: no folder to cache in can be written.
    with suppress(RuntimeError):
        compiled._cache = _Cache(function)
    return compiled


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's own, but a disk that is full keeps nothing instead of ending the call."""

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            # Numba writes the index first: it may now lead to machine code of an older source.
            with suppress(OSError):
                Path(self._cache_file._index_path).unlink()
            if not isinstance(error, OSError):
                raise


def threads() -> int:
    """Return how many threads `in_threads` uses: `set_threads`, or else the cores of this process.

    Examples
    --------
    >>> threads() >= 1
    True
    """
    if _limit is not None:
        return _limit
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, int(numba.config.NUMBA_NUM_THREADS)))


def set_threads(count: int | None) -> None:
    """Limit the threads of this process, for example to 1 in a loader worker; None lifts the limit.

    Parameters
    ----------
    count : int or None
        At least 1.

    Examples
    --------
    >>> set_threads(1)
    >>> threads()
    1
    >>> set_threads(None)
    """
    global _limit  # noqa: PLW0603
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1 but is {count}")
    _limit = count


def in_threads(work: Callable[[int], Any], tasks: Sequence[int] | int) -> None:
    """Call `work` for each task, on `threads()` threads; the order of the calls is left open.

    Parameters
    ----------
    work : callable
        Takes one task; a compiled function inside it releases the GIL. Tasks must not write to the
        same place.
    tasks : sequence of int, or int
        The tasks, longest first if they differ; a number n means 0..n-1.

    Examples
    --------
    >>> seen = [0, 0, 0]
    >>> in_threads(lambda task: seen.__setitem__(task, 1), 3)
    >>> seen
    [1, 1, 1]
    """
    numbers = range(tasks) if isinstance(tasks, int) else tasks
    workers = min(threads(), len(numbers))
    if workers <= 1:
        for task in numbers:
            work(task)
        return
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work, task) for task in numbers]:
            future.result()
