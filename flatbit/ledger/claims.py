"""Claims: what a paper's tables say in words, as differences between two of our nets, in pairs of a seed."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from scipy import stats

from .evidence import Shelf
from .experiments import Point, experiment

FILE = Path(__file__).parent / "claims.toml"
SURE = 0.05
"""The two-sided p below which a difference counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One net is better than another.

    Attributes:
        place: ``HOL/Fig2``.
        says: in words.
        better, than: an experiment and its point, NAME or NAME:POINT.
        metric: of both.
    """

    place: str
    says: str
    better: str
    than: str
    metric: str = "top1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """A claim, and what our runs say of it.

    Attributes:
        differences: of each seed that both sides have, in the metric's unit; positive where it holds.
    """

    claim: Claim
    differences: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Of the differences; None without runs."""
        return statistics.mean(self.differences) if self.differences else None

    @property
    def spread(self) -> float | None:
        """Their standard deviation (n - 1); None for fewer than two."""
        return statistics.stdev(self.differences) if len(self.differences) > 1 else None

    @property
    def p(self) -> float | None:
        """Of a two-sided paired t-test, not corrected for the number of claims; None for fewer than two."""
        if len(self.differences) < 2:
            return None
        if not self.spread:  # all alike
            return 0.0 if self.mean else 1.0
        result: Any = stats.ttest_1samp(self.differences, 0.0)
        return float(result.pvalue)

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold``, ``not told apart``; ``one seed`` and ``not run`` where no more can be said."""
        if self.mean is None:
            return "not run"
        if self.p is None:
            return f"one seed, {'for' if self.mean > 0 else 'against'} it"
        if self.p >= SURE:
            return "not told apart"
        return "holds" if self.mean > 0 else "does not hold"


@lru_cache
def claims() -> tuple[Claim, ...]:
    """All claims, in order of the papers."""
    found = tomllib.loads(FILE.read_text())
    return tuple(Claim(place=place, **entry) for place, entries in found.items() for entry in entries)


def judged(asked: Sequence[Claim], shelf: Shelf) -> list[Tested]:
    """What full-length runs say of claims."""
    return [_judged(claim, shelf) for claim in asked]


def _judged(claim: Claim, shelf: Shelf) -> Tested:
    one, other = (_by_seed(side, claim.metric, shelf) for side in (claim.better, claim.than))
    return Tested(claim=claim, differences=tuple(one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())))


def _by_seed(side: str, metric: str, shelf: Shelf) -> dict[int, float]:
    name, _, point = side.partition(":")
    found = shelf.of(experiment(name).name).values()
    values = {each.run.seed: each.value(metric, Point.parse(point)) for each in found if not shelf.variation(each)}
    return {seed: value for seed, value in values.items() if value is not None}
