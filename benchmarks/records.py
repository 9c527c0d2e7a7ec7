"""The records in benchmarks/results: the newest of each benchmark, device and variant."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from names import NAME

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A record.

    Attributes:
        path: its file.
        date, benchmark, device, variant: as its name has them.
        environment: hardware and versions.
        settings: of the benchmark.
        rows: a mapping for each variant that was timed; with the facts of its case, where the record has several.
        times_s: of each variant, seconds of every round; empty where the record has none.
    """

    path: Path
    date: str
    benchmark: str
    device: str
    variant: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    times_s: Mapping[str, Sequence[float]]

    @classmethod
    def read(cls, path: Path) -> Record:
        """Of a file. Raises ValueError for a name or content that is none of a record."""
        named = NAME.fullmatch(path.name)
        if named is None:
            raise ValueError(f"{path}: expected the name DATE-BENCHMARK-DEVICE[-VARIANT].json")
        content = json.loads(path.read_text())
        if missing := {"environment"} - content.keys():
            raise ValueError(f"{path}: a record without {', '.join(missing)}")
        facts = {name: value or "" for name, value in named.groupdict().items()}
        cased = [case["case"] | row for case in content.get("cases", ()) for row in case["rows"]]
        parts = {"settings": {}, "rows": cased, "times_s": {}} | content
        return cls(path=path, **facts, **{name: parts[name] for name in ("environment", "settings", "rows", "times_s")})

    def row(self, **facts: Any) -> Mapping[str, Any] | None:
        """The first row with these values; None where there is none."""
        return next((row for row in self.rows if all(row.get(k) == v for k, v in facts.items())), None)

    def ratio(self, name: str, base: str) -> float | None:
        """Median of the ratios inside a round; None where one of both was not timed."""
        if name not in self.times_s or base not in self.times_s:
            return None
        pairs = zip(self.times_s[name], self.times_s[base], strict=True)
        return statistics.median(own / other for own, other in pairs)


def newest(folder: Path = RESULTS) -> list[Record]:
    """The newest record of each (benchmark, device, variant), in the order of these."""
    found: dict[tuple[str, str, str], Record] = {}
    for path in sorted(folder.glob("*.json")):  # by date
        record = Record.read(path)
        found[record.benchmark, record.device, record.variant] = record
    return [found[key] for key in sorted(found)]


def of(records: Sequence[Record], benchmark: str) -> list[Record]:
    """Those of one benchmark."""
    return [record for record in records if record.benchmark == benchmark]
