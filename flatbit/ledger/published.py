"""Published numbers: the 761 values of the five papers' tables, captions and texts, one row each."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..registry import nearest

FILE = Path(__file__).parent / "published.csv"

MIXED = "MP"
"""Bits that differ from layer to layer: a net's cost is known when it is found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A number as it is printed.

    Attributes:
        id: PAPER-TABLE-NUMBER; it never changes.
        paper, table: where it stands.
        dataset, network, method: of what, in the paper's words.
        w_bits, a_bits: 32 is float, MP mixed precision.
        metric: ``top1`` ... in percent; ``params_M``, ``BOPs_G`` ... as the name says.
        value: as it is printed; None where it is only plotted.
        notes: ``own``, ``cited``, over how many runs.
    """

    id: str
    paper: str
    table: str
    dataset: str
    network: str
    method: str
    w_bits: str
    a_bits: str
    metric: str
    value: float | None
    notes: str

    @property
    def place(self) -> str:
        """``SAQ/T1``: what ``flatbit ledger`` takes."""
        return f"{self.paper}/{self.table}"

    @property
    def bits(self) -> str:
        """``2/2`` of weights and activations."""
        return f"{self.w_bits}/{self.a_bits}"


@lru_cache
def published() -> tuple[Published, ...]:
    """All rows, in the order of the papers' tables."""
    with FILE.open(newline="") as file:
        return tuple(
            Published(**(row | {"value": float(row["value"]) if row["value"] else None}))  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        )


def selected(places: Iterable[str]) -> tuple[Published, ...]:
    """The rows of papers (``SAQ``), tables (``SAQ/T1``) or single ids; all of them where nothing is named.

    Raises ValueError for what is none of these, with the nearest that are.
    """
    wanted = list(places)
    for place in wanted:
        check_place(place)
    if not wanted:
        return published()
    lowered = {place.lower() for place in wanted}
    return tuple(row for row in published() if lowered & _names(row))


def check_place(place: str) -> None:
    """Raise ValueError for what is no paper, table or row."""
    known = {row.paper for row in published()} | {row.place for row in published()}
    if place.lower() not in {name.lower() for name in known} | {row.id.lower() for row in published()}:
        raise ValueError(f"no paper, table or row {place!r}: {nearest(place, known)}")


def _names(row: Published) -> set[str]:
    return {row.paper.lower(), row.place.lower(), row.id.lower()}
