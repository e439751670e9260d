"""Timing of epochs: seconds of waiting for batches, computing, validating."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

_ACTIVITIES = {"waiting": "waiting for crops", "computing": "computing", "validating": "validating"}
_WARM_UP, _MEASURED = 3, 8  # steps

_log = logging.getLogger(__name__)


class Clock:
    """Seconds since its construction, and those spent on each activity.

    A GPU computes while the clock already measures the wait for the next batch, so that a short
    wait there costs nothing; a long one means that the GPU had no work.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._spent = dict.fromkeys(_ACTIVITIES, 0.0)

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Add the time that the block takes to `activity`."""
        start = time.monotonic()
        yield
        self._spent[activity] += time.monotonic() - start

    def read(self) -> dict[str, float]:
        """All seconds, then those of each activity, as columns of `metrics.csv`."""
        parts = {f"seconds_{activity}": seconds for activity, seconds in self._spent.items()}
        return {"seconds": time.monotonic() - self._start} | parts


def where_time_went(rows: Sequence[Mapping[str, float]]) -> str:
    """One line on the epochs of these rows of `metrics.csv`.

    Examples
    --------
    >>> where_time_went([{"seconds": 50.0, "seconds_waiting": 1.0, "seconds_computing": 40.0}])
    '50 s: 2 % waiting for crops, 80 % computing, 0 % validating'
    """
    total = sum(row["seconds"] for row in rows)
    # Epochs of an earlier flowseg lack the columns.
    spent = {name: sum(row.get(f"seconds_{name}", 0.0) for row in rows) for name in _ACTIVITIES}
    shares = (f"{100 * spent[name] / total:.0f} % {text}" for name, text in _ACTIVITIES.items())
    return f"{total:.0f} s: {', '.join(shares)}"


def epoch_in_words(rows: Sequence[Mapping[str, float]], epochs: int) -> str:
    """One line on the last of the epochs of these rows of `metrics.csv`, and the time left.

    Examples
    --------
    >>> epoch_in_words([{"epoch": 1, "loss": 2.0, "score": 0.25, "seconds": 60.0}], 3)
    'epoch 1 of 3: loss 2.0000, score 0.2500; 1.0 min, 2.0 min left'
    """
    row = rows[-1]
    shown = ", ".join(f"{name} {row[name]:.4f}" for name in ("loss", "score") if name in row)
    seconds = sum(row["seconds"] for row in rows) / len(rows)
    left = seconds * (epochs - len(rows))
    return (
        f"epoch {len(rows)} of {epochs}: {shown}; {duration(row['seconds'])}, {duration(left)} left"
    )


class Forecast:
    """Says once, after the first steps, how long a number of steps will take.

    `name` is that of the stage, `epoch` the steps of one epoch, and `runs` how many runs of this
    length are to come, this one included.
    """

    def __init__(self, name: str, steps: int, epoch: int, runs: int = 1) -> None:
        self._name, self._steps, self._epoch, self._runs = name, steps, epoch, runs
        self._taken = 0
        self._start = 0.0

    def step(self) -> None:
        """Count a step."""
        self._taken += 1
        if self._taken == _WARM_UP:
            self._start = time.monotonic()
        if self._taken == _WARM_UP + _MEASURED < self._steps:
            self._say((time.monotonic() - self._start) / _MEASURED)

    def _say(self, seconds: float) -> None:
        total = seconds * self._steps
        text = f"{self._name}: {self._steps:,} steps of {seconds:.2f} s, {duration(total)}"
        if self._runs > 1:
            text += f", for {self._runs} folds {duration(total * self._runs)}"
        fitting = int(3600 / self._runs / (seconds * self._epoch))
        if total * self._runs > 3600 and fitting:
            text += f"; an hour takes {fitting} epochs (--time-budget 1h)"
        _log.info("%s", text)


def duration(seconds: float) -> str:
    """A time in words.

    Examples
    --------
    >>> duration(48), duration(150), duration(2760), duration(9000)
    ('48 s', '2.5 min', '46 min', '2.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        minutes = seconds / 60
        return f"{minutes:.1f} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{seconds / 3600:.1f} h"
