"""Where the time of a training goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

__all__ = ["Clock", "where_time_went"]

Thing = Literal["waiting", "computing", "validating"]

_THINGS: dict[Thing, str] = {
    "waiting": "waiting for crops",
    "computing": "computing",
    "validating": "validating",
}


class Clock:
    """Seconds since it was made, and those spent on each thing.

    A GPU computes while the clock already measures the wait for the next batch, so that a short
    wait there costs nothing; a long one means that it ran dry.

    Examples
    --------
    >>> clock = Clock()
    >>> with clock.measure("waiting"):
    ...     pass
    >>> list(clock.read())
    ['seconds', 'seconds_waiting', 'seconds_computing', 'seconds_validating']
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._spent = dict.fromkeys(_THINGS, 0.0)

    @contextmanager
    def measure(self, thing: Thing) -> Iterator[None]:
        """Add the time that the block takes to `thing`."""
        begun = time.monotonic()
        yield
        self._spent[thing] += time.monotonic() - begun

    def read(self) -> dict[str, float]:
        """All seconds, then those of each thing, as the columns of `metrics.csv`."""
        parts = {f"seconds_{thing}": seconds for thing, seconds in self._spent.items()}
        return {"seconds": time.monotonic() - self._begun} | parts


def where_time_went(rows: Sequence[Mapping[str, float]]) -> str:
    """One line on the epochs whose rows of `metrics.csv` these are.

    Examples
    --------
    >>> where_time_went([{"seconds": 50.0, "seconds_waiting": 1.0, "seconds_computing": 40.0}])
    '50 s: 2 % waiting for crops, 80 % computing, 0 % validating'
    """
    total = sum(row["seconds"] for row in rows)
    # Epochs of an earlier flowseg lack the columns.
    spent = {thing: sum(row.get(f"seconds_{thing}", 0.0) for row in rows) for thing in _THINGS}
    shares = (f"{100 * spent[thing] / total:.0f} % {text}" for thing, text in _THINGS.items())
    return f"{total:.0f} s: {', '.join(shares)}"
