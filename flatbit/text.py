"""Tables as text: what a result prints as."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

WIDTH = 120


def as_text(table: Table, *lines: str) -> str:
    """A table of 120 columns and lines below it, as plain text."""
    console = Console(width=WIDTH)
    with console.capture() as capture:
        console.print(table)
        for line in lines:
            console.print(line, soft_wrap=True)
    return capture.get().rstrip()
