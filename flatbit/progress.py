"""Progress of long work, on standard error and only where somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Show no progress from now on, on a terminal neither; ``quiet=False`` shows it again."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether no progress is to be shown."""
    return _quiet


def is_watched() -> bool:
    """Whether bars are shown: standard error is a terminal, and nobody asked for quiet."""
    return Console(file=sys.stderr).is_terminal and not _quiet


def bar(*extra: str) -> Progress:
    """A progress bar: description, bar, count, ``extra`` task fields, time left. Silent off a terminal."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    fields = [TextColumn(f"{{task.fields[{name}]}}") for name in extra]
    console = Console(file=sys.stderr)
    return Progress(*columns, *fields, TimeRemainingColumn(), console=console, disable=not is_watched(), transient=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield from ``items`` under a progress bar."""
    with bar() as progress:
        yield from progress.track(items, total=total, description=description)
