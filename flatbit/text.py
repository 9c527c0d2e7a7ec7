"""Tables as text: what a result prints as."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 120
FEW = 10


def as_text(table: Table, *lines: str) -> str:
    """A table of 120 columns and lines below it, as plain text."""
    console = Console(width=WIDTH)
    with console.capture() as capture:
        console.print(table)
        for line in lines:
            console.print(line, soft_wrap=True)
    return capture.get().rstrip()


def first_of(numbers: Sequence[int], total: int | None = None) -> str:
    """The first ten of them, and how many more of all: ``3, 17``, or ``0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 5 more``."""
    more = (len(numbers) if total is None else total) - FEW
    return ", ".join(map(str, numbers[:FEW])) + (f" and {more} more" if more > 0 else "")
