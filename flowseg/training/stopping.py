"""Stopping on a signal: the step under way is ended and the state saved before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from flowseg.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield whether SIGINT or SIGTERM has come: in this block the first one only asks to stop.

    A second one raises :class:`flowseg.errors.Stopped` wherever the process is, and so does the end
    of the block after a first one that nobody has obeyed. Only the main thread takes signals;
    elsewhere they do what they did.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise Stopped


def leave_signals_to_main() -> None:
    """Ignore, in a loader process, the signals that a terminal or a scheduler sends to all."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
