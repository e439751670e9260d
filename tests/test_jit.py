"""Compiled loops: caching that cannot fail, and threads that are safe anywhere."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numba.core.caching
import pytest

import flowseg
from flowseg._jit import in_threads, jit, set_threads, threads


def test_compiles_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])

    def triple(x: int) -> int:
        return 3 * x

    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(triple, cache=True)
    assert jit(triple)(2) == 6


def test_a_full_disk_keeps_no_machine_code_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = []

    def save(*_: object) -> None:
        refused.append(True)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", save)

    @jit
    def fourfold(x: int) -> int:
        return 4 * x

    assert fourfold(2) == 8
    assert refused == [True]


def test_machine_code_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text(
        "from flowseg._jit import jit\n"
        "@jit\ndef half(x):\n    return x / 2\n"
        "half(3.0)\nhits = sum(half.stats.cache_hits.values())\n"
    )
    code = "import sys; sys.path[0:0] = sys.argv[1:]; import kept; print(kept.hits)"
    where = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, str(Path(flowseg.__file__).parents[1]), str(tmp_path)]
    hits = [
        subprocess.run(command, env=where, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert hits == ["0\n", "1\n"]


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
    assert subprocess.run([sys.executable, "-c", code], timeout=600, check=False).returncode == 0
