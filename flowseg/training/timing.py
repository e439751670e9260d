"""Timing of epochs: seconds of waiting for batches, computing, validating."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

Activity = Literal["waiting", "computing", "validating"]

_ACTIVITIES: dict[Activity, str] = {
    "waiting": "waiting for crops",
    "computing": "computing",
    "validating": "validating",
}


class Clock:
    """Seconds since its construction, and those spent on each activity.

    A GPU computes while the clock already measures the wait for the next batch, so that a short
    wait there costs nothing; a long one means that the GPU had no work.

    Examples
    --------
    >>> clock = Clock()
    >>> with clock.measure("waiting"):
    ...     pass
    >>> list(clock.read())
    ['seconds', 'seconds_waiting', 'seconds_computing', 'seconds_validating']
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._spent = dict.fromkeys(_ACTIVITIES, 0.0)

    @contextmanager
    def measure(self, activity: Activity) -> Iterator[None]:
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
