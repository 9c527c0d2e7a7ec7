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
from ..quant.widths import short_bits

WIDTH, LEAST = 100, 12
"""Columns of a terminal: of the table, and for the convention at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSummary:
    """One stage over all seeds; accuracies in percent of the last epoch.

    Attributes:
        stage: its name; ``method``, ``bits``: what was quantized, and to what; many widths are one short word.
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
    def below(self) -> str:
        """``+0.22``, points below the float stage; "" of that one, and where there is none."""
        return "" if self.loss is None or self.method == "float" else f"{self.loss:+.2f}"

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
    """The rows as a table for a terminal, with the size of each stage's packed file where it is given.

    A column that nothing stands in is left out; the convention breaks into lines, to stay within 100 columns.
    """
    n = max(row.num_seeds for row in rows)
    spread = f"; mean ± std over {n} seeds" if n > 1 else ""
    columns = {
        "stage": [row.stage for row in rows],
        "bits": [row.bits for row in rows],
        f"{LABELS[rows[0].metric]} %": [row.accuracy for row in rows],
        "below\nfloat": [row.below for row in rows],
        "held\nout %": ["" if row.held_out is None else f"{row.held_out:.2f}" for row in rows],
        "bytes": [f"{row.size_bytes:,}" for row in rows],
        "file": [f"{file_bytes[row.stage]:,}" if file_bytes else "" for row in rows],
        "bit-ops": [f"{row.bitops / 1e6:,.1f} M" for row in rows],
        "time": [f"{row.seconds:.1f} s" for row in rows],
    }
    table = Table(title=title + spread)
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    for name in shown:
        table.add_column(name, no_wrap=True)
    taken = sum(3 + max(map(len, [*name.split("\n"), *cells])) for name, cells in shown.items())
    table.add_column("convention", max_width=max(LEAST, WIDTH - taken - len("│  │")))
    for row, *cells in zip(rows, *shown.values(), strict=True):
        table.add_row(*cells, row.first_last)
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
        bits=convention.bits,
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
        convention=_joined("float" if is_float else _in_words(convention), first.way),
        first_last=_joined("" if is_float else _first_last(convention), first.way),
    )


def _joined(words: str, way: Way) -> str:
    """A convention, with the precision that it was trained in where that is another than float32."""
    return words if way.precision == "float32" else ", ".join(filter(None, (words, f"trained in {way.precision}")))


def _in_words(convention: Convention) -> str:
    """All that the bits do not say: every width where there are many, and the rules."""
    inner = "" if convention.bits == convention.inner else f"inner {convention.inner}, "
    return inner + convention.in_words()


def _first_last(convention: Convention) -> str:
    """The edges (first and last layer), shortcuts of other bits than the inner layers, batch norm that is not float."""
    edges, last = short_bits(convention.first), short_bits(convention.last)
    said = [f"edges {edges}"] if edges == last else [f"first {edges}", f"last {last}"]
    if convention.shortcut not in (convention.inner, "none"):
        said.append(f"shortcut {short_bits(convention.shortcut)}")
    said += [] if convention.batch_norm == "float" else [f"BN {convention.batch_norm}"]
    return ", ".join(each for each in said if not each.endswith(" none"))
