"""Many images side by side: in order, bounded, and past a bad one."""

from __future__ import annotations

import threading
import time

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
