"""A summary of runs: one row per stage, mean and spread over the runs' seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from .. import plain
from ..engine.record import Run, StageRecord, decisive
from ..engine.way import Way
from ..metrics.scores import LABELS
from ..quant.convention import Convention


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSummary:
    """One stage over all seeds; accuracies in percent of the last epoch.

    Attributes:
        stage: its name; ``method``, ``bits``: what was quantized, and to what.
        metric: what the score is: ``top1`` or ``miou``, in percent.
        score, spread: mean and standard deviation (n - 1) over seeds; spread is None for one seed.
        best: mean of each seed's best test epoch, an optimistic selection.
        loss: points of top-1 below the float stage; None where there is none.
        num_seeds: n.
        size_bytes, bitops: of the model, one image.
        seconds: mean training time.
        test_images: how many the score is of.
        held_out: mean score on held-out training images, by which the run chose; None where none are.
        kept: whether the stage's net is what the runs leave.
        convention: the rules the accuracy was got under; ``first_last``: the part that differs most, short.
    """

    stage: str
    method: str
    bits: str
    metric: str
    score: float
    spread: float | None
    best: float | None
    loss: float | None
    num_seeds: int
    size_bytes: int
    bitops: int
    seconds: float
    test_images: int
    held_out: float | None
    kept: bool
    convention: str
    first_last: str

    @property
    def accuracy(self) -> str:
        """``98.30 ± 0.22``, or the one seed's value."""
        return f"{self.score:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


def summarize(runs: Sequence[Run]) -> list[StageSummary]:
    """A row per stage that all runs finished. Raises ValueError where more than their seeds differ, or for no stage."""
    if not runs:
        raise ValueError("no runs to summarize")
    recipes = {str(decisive(plain.to_plain(run.record.recipe))) for run in runs}
    if len(recipes) > 1:
        names = sorted({run.record.recipe.name for run in runs})
        raise ValueError(f"runs of different recipes or settings cannot be averaged: {', '.join(names)}")
    precisions = sorted({run.record.precision for run in runs})
    if len(precisions) > 1:
        raise ValueError(f"runs of different precision cannot be averaged: {', '.join(precisions)}")
    stages = [name for name in runs[0].record.stages if all(name in run.record.stages for run in runs)]
    if not stages:
        raise ValueError("no stage is finished in every run: go on with them first (--resume)")
    rows: list[StageSummary] = []
    for name in stages:
        rows.append(_row(name, [run.record.stages[name] for run in runs], rows))
    kept = {run.record.kept or stages[-1] for run in runs}
    return [replace(row, kept={row.stage} == kept) for row in rows]


def table_of(rows: Sequence[StageSummary], title: str, file_bytes: Mapping[str, int] | None = None) -> Table:
    """The rows as a table for a terminal, with the size of each stage's packed file where it is given."""
    n = max(row.num_seeds for row in rows)
    spread = f"; mean ± std over {n} seeds" if n > 1 else ""
    held = any(row.held_out is not None for row in rows)
    table = Table(
        "stage",
        "bits",
        f"{LABELS[rows[0].metric]} %",
        "below float",
        *(("held out %",) if held else ()),
        "bytes",
        *(() if file_bytes is None else ("file",)),
        "bit-ops",
        "seconds",
        "convention",
        title=title + spread,
    )
    for row in rows:
        loss = "" if row.loss is None or row.method == "float" else f"{row.loss:+.2f}"
        file = () if file_bytes is None else (f"{file_bytes[row.stage]:,}",)
        cost = f"{row.size_bytes:,}", *file, f"{row.bitops / 1e6:,.1f} M"
        chosen_by = () if not held else ("-" if row.held_out is None else f"{row.held_out:.2f}",)
        table.add_row(row.stage, row.bits, row.accuracy, loss, *chosen_by, *cost, f"{row.seconds:.1f}", row.first_last)
    return table


def as_json(rows: Sequence[StageSummary]) -> list[dict[str, Any]]:
    """The rows as plain values."""
    return [asdict(row) for row in rows]


def _row(name: str, entries: list[StageRecord], earlier: list[StageSummary]) -> StageSummary:
    first, scores = entries[0], [entry.score for entry in entries]
    best = [entry.best_test for entry in entries if entry.best_test is not None]
    held = [entry.held_out for entry in entries if entry.held_out is not None]
    convention = first.test.convention
    reference = next((row.score for row in earlier if row.method == "float"), None)
    is_float = convention.policy == "float"
    score = statistics.mean(scores)
    return StageSummary(
        stage=name,
        method=convention.policy,
        bits="W32/A32" if is_float else convention.inner,
        metric=first.metric,
        score=score,
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        best=statistics.mean(best) if best else None,
        loss=None if reference is None else reference - score,
        num_seeds=len(scores),
        size_bytes=first.cost.size_bytes,
        bitops=first.cost.bitops,
        seconds=statistics.mean(entry.seconds for entry in entries),
        test_images=first.test.num_samples,
        held_out=statistics.mean(held) if len(held) == len(entries) else None,
        kept=False,
        convention=_joined("float" if is_float else convention.in_words(), first.way, ", "),
        first_last=_joined("" if is_float else _first_last(convention), first.way, " "),
    )


def _joined(words: str, way: Way, between: str) -> str:
    """A convention, with the precision that it was trained in where that is another than float32."""
    return words if way.precision == "float32" else between.join(filter(None, (words, f"trained in {way.precision}")))


def _first_last(convention: Convention) -> str:
    """First / last / shortcut, and batch norm where it is not float."""
    stated_of = {"first": convention.first, "last": convention.last, "shortcut": convention.shortcut}
    bits = " ".join(f"{role} {stated}" for role, stated in stated_of.items() if stated != "none")
    return bits + ("" if convention.batch_norm == "float" else f" BN {convention.batch_norm}")
