"""Compiled loops: caching that cannot fail, and threads that are safe anywhere."""

from __future__ import annotations

import subprocess
import sys
import threading

import numba.core.caching
import pytest

from flowseg._jit import in_threads, jit, set_threads, threads


def test_compiles_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])

    def triple(x: int) -> int:
        return 3 * x

    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(triple, cache=True)
    assert jit(triple)(2) == 6


def test_options_reach_numba() -> None:
    @jit(error_model="numpy")
    def divide(a: float, b: float) -> float:
        return a / b

    assert divide(1.0, 0.0) == float("inf")


def test_runs_every_task_once_and_raises_what_they_raise() -> None:
    seen: list[int] = []
    in_threads(seen.append, range(0, 50, 5))
    assert sorted(seen) == list(range(0, 50, 5))

    def fail(task: int) -> None:
        raise KeyError(task)

    with pytest.raises(KeyError):
        in_threads(fail, 4)


def test_limit_of_threads() -> None:
    names: set[int] = set()
    try:
        set_threads(1)
        assert threads() == 1
        in_threads(lambda _: names.add(threading.get_ident()), 8)
        assert names == {threading.get_ident()}
        with pytest.raises(ValueError, match="at least 1"):
            set_threads(0)
    finally:
        set_threads(None)


def test_works_in_a_forked_child_after_use_in_the_parent() -> None:
    if not hasattr(__import__("os"), "fork"):
        pytest.skip("this system cannot fork")
    code = """
import os, warnings
import numpy as np
from flowseg import flows_to_labels, labels_to_flows
from flowseg._jit import set_threads
warnings.simplefilter("ignore")
set_threads(2)
labels = np.kron(np.arange(1, 401).reshape(20, 20), np.ones((25, 25), int))
cellprob = np.where(labels > 0, 5.0, -5.0).astype(np.float32)
def both():
    flows = labels_to_flows(labels)
    return flows, flows_to_labels(flows, cellprob)
before = both()
assert before[1].max() == 400
child = os.fork()
if child == 0:
    os._exit(0 if all(map(np.array_equal, both(), before)) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
