"""The clock of an epoch, and what is told of a stage."""

from __future__ import annotations

import time

import pytest

from flowseg.training.timing import Clock, Forecast, where_time_went


def test_each_activity_has_its_seconds() -> None:
    clock = Clock()
    for _ in range(2):
        with clock.measure("waiting"):
            time.sleep(0.01)
    with clock.measure("computing"):
        pass
    read = clock.read()
    assert 0.02 <= read["seconds_waiting"] <= read["seconds"]
    assert 0 <= read["seconds_computing"] < read["seconds_waiting"]
    assert read["seconds_validating"] == 0


def test_epochs_of_an_earlier_version_have_no_columns() -> None:
    text = where_time_went([{"seconds": 30.0}, {"seconds": 10.0, "seconds_validating": 10.0}])
    assert text == "40 s: 0 % waiting for crops, 0 % computing, 25 % validating"


def test_an_unknown_activity_is_no_column() -> None:
    with pytest.raises(KeyError), Clock().measure("resting"):  # type: ignore[arg-type]
        pass


def test_how_long_it_takes_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    forecast = Forecast("training", 600, 100, runs=5)
    with caplog.at_level("INFO", "flowseg"):
        for step in range(40):
            forecast.step()
            now += 30.0 if step < 2 else 2.0  # the first ones compile
    assert [record.message for record in caplog.records] == [
        "training: 600 steps of 2.00 s, 20 min, for 5 folds 1.7 h; "
        "an hour takes 3 epochs (--time-budget 1h)"
    ]


def test_a_short_stage_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    forecast = Forecast("training", 5, 5)
    with caplog.at_level("INFO", "flowseg"):
        for _ in range(5):
            forecast.step()
    assert not caplog.records
