"""The signals that end a session: once, and not while it packs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StoppedError(Exception):
    """By SIGTERM, SIGINT or SIGHUP."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise StoppedError in the body where a signal comes; from its end on signals are ignored."""
    try:
        for number in SIGNALS:
            signal.signal(number, _stop)
        yield
    finally:
        _ignore()


def _stop(*_: object) -> None:
    _ignore()
    raise StoppedError


def _ignore() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
