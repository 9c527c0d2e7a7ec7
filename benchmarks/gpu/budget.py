"""The clock of a session: seconds since the script's own start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long a session may take.

    Attributes:
        started: when, in seconds of the clock.
        seconds: from then on.
        clock: the time, in seconds.
    """

    started: float
    seconds: float
    clock: Callable[[], float] = time.time

    def left(self, reserve: float = 0.0) -> float:
        """Seconds until ``reserve`` seconds before the end, 0 or more."""
        return max(0.0, self.started + self.seconds - reserve - self.clock())

    def passed(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started
