"""Groups: what the queue runs, in order of value for the time; both sides of a comparison stand in one group."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .experiments import Experiment, experiment
from .published import check_place, selected

FILE = Path(__file__).parent / "queue.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Experiments that are compared with each other.

    Attributes:
        name: unique.
        why: what it shows.
        experiments: in order; what they start from is made first, whether it is listed or not.
        seeds: 0 up to this number of each.
        device: ``cpu`` for nets so small that a GPU would be wasted on them; "" for any.
    """

    name: str
    why: str
    experiments: tuple[str, ...]
    seeds: int = 1
    device: str = ""

    def asked(self) -> tuple[Experiment, ...]:
        """The experiments themselves."""
        return tuple(experiment(name) for name in self.experiments)

    def rows(self) -> tuple[str, ...]:
        """The published rows that they fill, by id."""
        return tuple(row for entry in self.asked() for rows in entry.fills.values() for row in rows)


@lru_cache
def groups() -> tuple[Group, ...]:
    """All groups, in order."""
    found = tomllib.loads(FILE.read_text())
    return tuple(
        Group(name=name, **(entry | {"experiments": tuple(entry["experiments"])})) for name, entry in found.items()
    )


def chosen(places: Iterable[str] = (), device: str | None = None) -> list[Group]:
    """The groups that fill a row of some papers or tables, or have this name; all where none is named.

    Args:
        places: papers, tables, rows, or names of groups.
        device: what they are to be run on; None for any.

    Raises ValueError for what is none of these, and where no group is left.
    """
    places = list(places)
    names = {group.name for group in groups()}
    tables = [place for place in places if place not in names]
    for place in tables:
        check_place(place)
    rows = {row.id for row in selected(tables)} if tables or not places else set()
    kind = None if device is None else device.partition(":")[0]
    found = [
        group
        for group in groups()
        if (kind is None or group.device in ("", kind))
        and (not places or group.name in places or rows & {*group.rows()})
    ]
    if not found:
        named = ", ".join(places)
        raise ValueError(f"the queue has no group for {named} on {kind}: `flatbit ledger queue` lists its groups")
    return found
