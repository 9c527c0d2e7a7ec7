"""Stopping in time: at a deadline and at SIGTERM the work in hand is left where its last checkpoint stands."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAID = {signal.SIGALRM: "the time is up", signal.SIGTERM: "SIGTERM"}
"""What each signal means."""


class Stopped(BaseException):
    """The time is up, or somebody asked to stop: no error, and nothing that `except Exception` may swallow."""


@contextmanager
def stopping(end: float) -> Iterator[None]:
    """Raise ``Stopped`` within, at a time or at SIGTERM; the signals' handlers are as before afterwards.

    Files are written whole or not at all (``flatbit.atomic``), so it may come anywhere. To be entered in the main
    thread, which alone receives signals.

    Args:
        end: of ``time.monotonic``.
    """

    before = {number: signal.signal(number, _stop) for number in SAID}
    try:
        signal.setitimer(signal.ITIMER_REAL, max(end - time.monotonic(), 0.001))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold both signals back while something is written that takes several steps; they come right after it.

    Not by the thread's mask: whichever thread the system gives a signal to, Python handles it in the main one.
    """
    _held.append([])
    try:
        yield
    finally:
        came = _held.pop()
    if came:
        _stop(came[0], None)


_held: list[list[int]] = []
"""For each ``undisturbed`` that is on, the signals that came within."""


def _stop(number: int, _: FrameType | None) -> None:
    if _held:
        _held[-1].append(number)
        return
    raise Stopped(SAID[signal.Signals(number)])
