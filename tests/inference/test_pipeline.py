"""Many images side by side: in order, bounded, and past a bad one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from flowseg.config.schema import CellTypeSettings, NetworkConfig
from flowseg.errors import FlowsegError
from flowseg.inference.options import SegmentOptions
from flowseg.inference.pipeline import Stage, pipeline, segment_many
from flowseg.inference.segmenter import Segmenter
from flowseg.network.checkpoint import Card
from flowseg.network.unet import FlowNetwork


def test_results_come_in_order_and_few_are_under_way() -> None:
    taken, most = [], []
    done = 0

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    def slow_where_even(number: int) -> int:
        time.sleep(0.004 * (number % 2 == 0))
        most.append(len(taken) - done)
        return number * 10

    stages = (Stage(slow_where_even, 4), Stage(lambda x: x + 1, 2))
    results = []
    for outcome in pipeline(items(), stages, weight=lambda _: 1, limit=100, ahead=6):
        results.append(outcome.result)
        done += 1
    assert results == [10 * n + 1 for n in range(40)]
    assert 2 <= max(most) <= 7


def test_heavy_items_go_alone() -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def work(weight: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += weight
            most = max(most, under_way)
        time.sleep(0.003)
        with lock:
            under_way -= weight
        return weight

    weights = [1, 1, 50, 1, 9, 9, 9, 1]
    outcomes = pipeline(weights, [Stage(work, 4)], weight=lambda w: w, limit=20, ahead=8)
    assert [outcome.result for outcome in outcomes] == weights
    assert most == 50


def test_a_flowseg_error_stops_its_own_item_only() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise FlowsegError("bad")
        return number

    stages = (Stage(work, 2), Stage(lambda x: x, 2))
    outcomes = list(pipeline(range(5), stages, weight=lambda _: 1, limit=9, ahead=3))
    assert [outcome.result for outcome in outcomes] == [0, 1, None, 3, 4]
    assert str(outcomes[2].error) == "bad"


def test_any_other_error_ends_it_all() -> None:
    def work(number: int) -> int:
        return 1 // (number - 2)

    with pytest.raises(ZeroDivisionError):
        list(pipeline(range(50), [Stage(work, 2)], weight=lambda _: 1, limit=9, ahead=3))


def test_a_caller_that_stops_early_ends_the_threads() -> None:
    before = set(threading.enumerate())
    worked = []
    outcomes = pipeline(
        range(1000), [Stage(worked.append, 2)], weight=lambda _: 1, limit=99, ahead=5
    )
    next(outcomes)
    outcomes.close()
    assert set(threading.enumerate()) <= before
    assert len(worked) <= 6


DYING = """if True:
    import os, signal, sys, time
    from concurrent.futures import Future
    from flowseg.inference.pipeline import Stage, pipeline

    def stop(*_):
        raise SystemExit("stopped")

    def fail_to_note(*_):
        if sys.argv[1:] and sys.argv.pop() == "SIGTERM":  # once
            os.kill(os.getpid(), signal.SIGTERM)
        raise MemoryError

    def work(number):
        if number == 3:
            time.sleep(1)  # until all others wait for it
            raise MemoryError
        return number

    signal.signal(signal.SIGTERM, stop)
    Future.set_exception = fail_to_note
    stages = [Stage(work, 2), Stage(abs, 1), Stage(abs, 2)]
    for outcome in pipeline(range(99), stages, weight=lambda _: 1, limit=9, ahead=9):
        print(outcome.result, flush=True)
"""


def run_dying(*words: str) -> subprocess.CompletedProcess[str]:
    """A pipeline whose threads die of an error, since memory lacks even for noting it."""
    return subprocess.run(
        [sys.executable, "-c", DYING, *words],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
def test_a_thread_that_dies_ends_it_as_too_little_memory_does() -> None:
    done = run_dying()
    assert done.returncode == 1
    assert done.stdout.split() == ["0", "1", "2"]
    assert "FlowsegError: there is not enough memory; free some" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_sigterm_ends_it_when_a_thread_has_died() -> None:
    done = run_dying("SIGTERM")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "stopped"


def test_images_side_by_side_are_those_one_by_one(rng) -> None:
    network = NetworkConfig(channels=(4, 8), blocks_per_level=1)
    card = Card(network, {"a": CellTypeSettings(diameter=15.0, flow_threshold=0.0)})
    segmenter = Segmenter(FlowNetwork(network, 1), card, "cpu", "float32")
    images = [rng.integers(0, 255, (30 + 7 * k, 50), np.uint8) for k in range(8)]
    options = SegmentOptions(cellprob_threshold=-10.0)
    outcomes = segment_many(
        segmenter,
        range(8),
        options,
        read=images.__getitem__,
        write=lambda _, grey, found: (grey.shape, found.labels),
        weight=lambda k: images[k].size,
    )
    for image, outcome in zip(images, outcomes, strict=True):
        assert outcome.result is not None
        shape, labels = outcome.result
        assert shape == image.shape
        assert np.array_equal(labels, segmenter.segment(image, cellprob_threshold=-10.0).labels)
        assert labels.max() > 0
