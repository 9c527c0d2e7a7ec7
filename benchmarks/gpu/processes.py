"""A process with a limit: asked to end by an interrupt, then killed with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GRACE_S = 5.0
"""Seconds between the interrupt and the kill."""
POLL_S = 0.1

Ended = Literal["done", "failed", "time limit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a process ended.

    Attributes:
        ended: by itself with status 0, with another one, or stopped at its limit.
        status: its exit status, negative for a signal.
        seconds: that it took.
    """

    ended: Ended
    status: int
    seconds: float


def run_limited(
    command: Sequence[str],
    log: Path,
    *,
    seconds: float,
    cwd: Path,
    grace: float = GRACE_S,
    meanwhile: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a command, its output in ``log``, for so many seconds at most.

    Args:
        command: and its arguments.
        log: written anew.
        seconds: after them it is interrupted, and killed ``grace`` seconds later.
        cwd: where it runs.
        grace: what it has to write down what it holds.
        meanwhile: called ten times a second.

    An exception that is raised meanwhile, as by a signal, stops the process likewise, then goes on.
    """
    begun = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True)
        try:
            while process.poll() is None and time.monotonic() - begun < seconds:
                meanwhile()
                time.sleep(POLL_S)
            limit = process.poll() is None
        finally:
            _stop(process, grace)
    ended: Ended = "time limit" if limit else "failed" if process.returncode else "done"
    return Outcome(ended=ended, status=process.returncode, seconds=time.monotonic() - begun)


def _stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """End a process and all of its group."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with suppress(ProcessLookupError):  # what it left running too
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
