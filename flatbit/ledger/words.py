"""Cells in words, the same in the table, on the page and in docs/results.md."""

from __future__ import annotations

from .cells import Cell
from .evidence import Evidence


def number(value: float | None) -> str:
    """Four digits, or more of a large number; "" for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def ours(cell: Cell) -> str:
    """``68.70 ± 0.12 (n 5)``; the number alone where it is computed; "" where there is none."""
    if cell.ours is None:
        return ""
    if not cell.evidence:
        return number(cell.ours)
    spread = "" if cell.spread is None else f" ± {cell.spread:.2f}"
    return f"{cell.ours:.2f}{spread} (n {len(cell.evidence)})"


def difference(cell: Cell) -> str:
    """``+0.12``: ours less theirs, in the row's unit; of what is computed, in percent of theirs."""
    if cell.difference is None:
        return ""
    if cell.evidence:
        return f"{cell.difference:+.2f}"
    return f"{100 * cell.difference / cell.row.value:+.1f} %" if cell.row.value else ""


def status(cell: Cell) -> str:
    """The status with its reason."""
    return cell.status + (f" ({cell.why})" if cell.why else "")


def how(cell: Cell) -> str:
    """Convention, recipe, epochs, device and hours of what was run; "" where nothing was."""
    if not cell.evidence or cell.experiment is None:
        return ""
    first = cell.evidence[0][1]
    hours = sum(found.seconds(cell.point.stage) for _, found in cell.evidence) / 3600
    length = epochs(first, cell.point.stage)
    return f"{cell.convention}; {cell.experiment.recipe}, {length}, {first.hardware}, {hours:.2f} h"


def epochs(found: Evidence, stage: str = "") -> str:
    """``1 epoch``, ``300 + 1000 epochs``: of the stages on the way to one, the last for ""."""
    passed = found.lineage(stage)
    return " + ".join(map(str, passed)) + (" epoch" if passed == (1,) else " epochs")
