"""Compiled loops: caching that cannot fail, and threads that are safe anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numba.core.caching
import pytest

import flowseg
from flowseg.arrays.jit import (
    in_threads,
    jit,
    keeps_machine_code,
    set_threads,
    share_threads,
    threads,
)

pytestmark = pytest.mark.slow


def test_compiles_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keeps_machine_code()
    monkeypatch.setattr(numba.core.caching.CompileResultCacheImpl, "_locator_classes", [])

    def triple(x: int) -> int:
        return 3 * x

    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(triple, cache=True)
    assert jit(triple)(2) == 6
    assert not keeps_machine_code()


def run_kept(folder: Path, source: str, before: str = "") -> str:
    """What a process prints that runs a compiled function of some source, cached in a folder."""
    text = f"from flowseg.arrays.jit import jit\n@jit\ndef f(x):\n    {source}\n"
    file = folder / "kept.py"
    if not file.is_file() or file.read_text() != text:  # older numbas look at its time
        file.write_text(text)
    code = f"import sys; sys.path[:0] = sys.argv[1:]\n{before}\nimport kept\n"
    code += "print(kept.f(8.0), sum(kept.f.stats.cache_hits.values()))"
    return subprocess.run(
        [sys.executable, "-c", code, str(Path(flowseg.__file__).parents[1]), str(folder)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_machine_code_is_kept(tmp_path: Path) -> None:
    assert run_kept(tmp_path, "return x / 2") == "4.0 0"
    assert run_kept(tmp_path, "return x / 2") == "4.0 1"


@pytest.mark.skipif(os.name != "posix", reason="limits are set as POSIX does")
def test_a_full_disk_keeps_no_machine_code_and_ends_nothing(tmp_path: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**10, 2**10))"
    assert run_kept(tmp_path, "return x / 2", before=full) == "4.0 0"
    assert run_kept(tmp_path, "return x / 2") == "4.0 0"
    assert run_kept(tmp_path, "return x / 2", before=full) == "4.0 0"
    assert run_kept(tmp_path, "return x / 2") == "4.0 1"


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


def test_a_thread_that_dies_ends_the_wait_for_it() -> None:
    code = """if True:
    from concurrent.futures import Future
    from flowseg.arrays.jit import in_threads, set_threads

    def fail(*_):
        raise MemoryError

    set_threads(2)
    Future.set_exception = fail
    in_threads(fail, 4)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(flowseg.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "MemoryError: a thread has died"


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


def test_processes_of_a_machine_and_threads_side_by_side_share_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert threads() == 4
    counts: list[int] = []

    def share(sharers: int) -> None:
        share_threads(sharers)
        counts.append(threads())

    for sharers in (2, 16):
        other = threading.Thread(target=share, args=(sharers,))
        other.start()
        other.join()
    assert counts == [2, 1]
    assert threads() == 4


def test_works_in_a_forked_child_after_use_in_the_parent() -> None:
    if not hasattr(__import__("os"), "fork"):
        pytest.skip("this system cannot fork")
    code = """
import os, warnings
import numpy as np
from flowseg import flows_to_labels, labels_to_flows
from flowseg.arrays.jit import set_threads
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
