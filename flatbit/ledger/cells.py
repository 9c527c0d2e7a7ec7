"""Cells: each published number beside ours, with a status that never says more than the runs do."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..progress import track
from ..quant.spec import FLOAT_BITS
from .counting import ANALYTIC, COUNTED, analytic, count
from .evidence import Evidence, Shelf, label
from .experiments import Experiment, Point, filled_by
from .published import MIXED, Published
from .searched import searched

WHOLE = Point()
IN_POINTS = {"top1", "top5", "train_top1", "mIoU", "region_acc", "diff"}
"""Metrics in percent: reproduced within ``NEAR_POINTS``; the others within ``NEAR_SHARE``."""
NEAR_POINTS, NEAR_SHARE = 0.5, 0.01
LESS_IS_BETTER = {"lambda_max", "diff", "BOPs_M", "BOPs_G"}
LACKING = {"ImageNet": "ImageNet", "VOC2012": "PASCAL VOC 2012 with 10,582 training masks"}
"""Data sets that we do not have, by the papers' names."""
ABSENT = {
    "SAMQ": "a search, then a run with what it finds: two commands that the queue does not make",
    "HAQ": "HAQ is quoted only: not implemented",
}
"""Why no experiment fills a method's rows."""
QUOTED = {"LQ-Net", "QIL", "LSQ", "DSQ", "LLSQ"}
"""Methods that SAQ's Table 2 quotes without saying so in each row's note."""
Status = str
REPRODUCED, BETTER, SHORT = "reproduced", "better", "short by"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A published number and what we have of it.

    Attributes:
        row: as it is printed.
        experiment: the run that fills it; None where there is none.
        point: which of its nets.
        status: ``reproduced``, ``better``, ``short by`` and how much, ``one seed``, ``shortened``, ``other settings``,
            ``another start``, ``diverged``, ``computed``, ``setting``, ``trend``, ``not run``, ``needs data`` and
            which, ``cited only``, ``misprint``.
        ours: our value, the mean over seeds; None where there is none.
        spread: standard deviation (n - 1) over seeds; None for fewer than two.
        evidence: the runs behind it, by file.
        why: of a status that needs a word.
    """

    row: Published
    experiment: Experiment | None = None
    point: Point = WHOLE
    status: Status
    ours: float | None = None
    spread: float | None = None
    evidence: tuple[tuple[Path, Evidence], ...] = ()
    why: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the published value, in its unit."""
        return None if self.ours is None or self.row.value is None else self.ours - self.row.value

    @property
    def command(self) -> str:
        """The command that makes the run, or two with ``&&``; "" where there is none."""
        if self.experiment is None:
            found = searched(self.row)
            return "" if found is None else " && ".join(found.commands())
        return "" if self.status == "computed" else self.experiment.command()

    @property
    def convention(self) -> str:
        """The rules that our value was got under."""
        entry = self.evidence[0][1].stage(self.point.stage) if self.evidence else None
        if entry is None:
            return ""
        return "float" if entry.test.convention.policy == "float" else entry.test.convention.in_words()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        first = self.evidence[0][1] if self.evidence else None
        return {
            "id": self.row.id, "paper": self.row.paper, "table": self.row.table, "dataset": self.row.dataset,
            "network": self.row.network, "method": self.row.method, "bits": self.row.bits, "metric": self.row.metric,
            "published": self.row.value, "notes": self.row.notes, "status": self.status, "ours": self.ours,
            "spread": self.spread, "seeds": [found.run.seed for _, found in self.evidence],
            "difference": self.difference, "why": self.why, "convention": self.convention,
            "experiment": None if self.experiment is None else self.experiment.name, "point": str(self.point),
            "recipe": None if self.experiment is None else self.experiment.recipe,
            "epochs": None if first is None else list(first.lineage(self.point.stage)),
            "device": "" if first is None else first.hardware,
            "hours": sum(found.seconds(self.point.stage) for _, found in self.evidence) / 3600,
            "records": [label(path) for path, _ in self.evidence], "command": self.command,
        }  # fmt: skip


def cells(rows: Sequence[Published], shelf: Shelf) -> list[Cell]:
    """A cell per row; what can be counted or follows from a formula is computed now."""
    return [cell(row, shelf) for row in track(rows, "ledger")]


def cell(row: Published, shelf: Shelf) -> Cell:
    """One row's cell."""
    if f"{row.metric} misprint" in row.notes:
        return Cell(row=row, status="misprint", why=row.notes)
    if row.metric == "trend":
        return Cell(row=row, status="trend", why=row.notes)
    if row.metric in ANALYTIC:
        return Cell(row=row, status="computed", ours=analytic(row))
    if row.id not in filled_by():
        return _unfilled(row)
    experiment, point = filled_by()[row.id]
    where: dict[str, Any] = {"row": row, "experiment": experiment, "point": point}
    if row.metric == "rho":
        return Cell(status="setting", ours=_rho(experiment), **where)
    if row.metric in COUNTED and row.w_bits != MIXED:
        counted = count(row, experiment.name, point.stage)
        why = "" if row.value is None or abs(counted / row.value - 1) <= NEAR_SHARE else _why_counted(row)
        return Cell(status="computed", ours=counted, why=why, **where)
    return _measured(where, shelf)


def summary(found: Iterable[Cell]) -> dict[str, int]:
    """How many cells have each status, differences left out, the most frequent first."""
    counts: dict[str, int] = {}
    for each in found:
        kind = SHORT if each.status.startswith(SHORT) else each.status
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def _unfilled(row: Published) -> Cell:
    if row.notes.startswith("cited") or row.method in QUOTED:
        return Cell(row=row, status="cited only")
    lacks = LACKING.get(row.dataset)
    if lacks and searched(row) is not None:
        return Cell(row=row, status=f"needs data {lacks}", why=ABSENT["SAMQ"])
    return Cell(row=row, status="not run", why=ABSENT.get(row.method.split()[0], "no experiment fills it"))


def _why_counted(row: Published) -> str:
    """Why a count differs from the printed one, where that is known."""
    if row.network.startswith("depthwise"):
        return "differs: the paper counts batch norms' running statistics too"
    noted = [part for part in row.notes.split("; ") if "counted" in part or "computed" in part]
    return f"differs: {noted[0]}" if noted else "differs"


def _rho(experiment: Experiment) -> float | None:
    """What the recipe takes, where the paper prints a setting."""
    sharpness = experiment.made().stages[-1].sharpness
    return None if sharpness is None else sharpness.rho


def _measured(where: dict[str, Any], shelf: Shelf) -> Cell:
    """The cell of a row that runs fill: full-length ones of several seeds, or what there is instead, named as such."""
    row, experiment, point = where["row"], where["experiment"], where["point"]
    found = shelf.of(experiment.name)
    values = {path: each.value(row.metric, point) for path, each in found.items()}
    usable = {path: each for path, each in found.items() if values[path] is not None}
    diverged = sum(each.failed for path, each in found.items() if path not in usable)
    reasons = [f"{diverged} of {len(found)} runs diverged"] if diverged else []
    chosen = _alike(usable, shelf)
    if not chosen:
        lacks = LACKING.get(row.dataset)
        status = "diverged" if diverged else f"needs data {lacks}" if lacks and not found else "not run"
        return Cell(status=status, why="".join(reasons), evidence=tuple(found.items()) if diverged else (), **where)
    numbers = [value for path in chosen if (value := values[path]) is not None]
    mean = statistics.mean(numbers)
    spread = statistics.stdev(numbers) if len(numbers) > 1 else None
    variation = shelf.variation(next(iter(chosen.values())))
    status = variation or ("one seed" if len(numbers) == 1 else verdict(row, mean))
    if variation == "shortened":
        epochs = next(iter(chosen.values())).epochs
        reasons.insert(0, f"{epochs} epochs in place of {_epochs(experiment)}")
    why = "; ".join(reasons)
    return Cell(status=status, ours=mean, spread=spread, evidence=tuple(chosen.items()), why=why, **where)


def _alike(usable: dict[Path, Evidence], shelf: Shelf) -> dict[Path, Evidence]:
    """The runs that can be averaged: whole ones, else those of one variation and length, the longest."""
    kinds = {path: (shelf.variation(each), each.epochs) for path, each in usable.items()}
    best = max(kinds.values(), key=lambda kind: (not kind[0], kind[0] == "shortened", kind[1]), default=None)
    return {path: each for path, each in usable.items() if kinds[path] == best}


def verdict(row: Published, ours: float) -> Status:
    """``reproduced`` within 0.5 points, or 1 % where the unit is another; ``better``; or ``short by`` how much."""
    assert row.value is not None
    difference = ours - row.value
    near = NEAR_POINTS if row.metric in IN_POINTS else NEAR_SHARE * abs(row.value)
    if abs(difference) <= near:
        return REPRODUCED
    gain = -difference if row.metric in LESS_IS_BETTER else difference
    return BETTER if gain > 0 else f"{SHORT} {abs(difference):.1f}"


def _epochs(experiment: Experiment) -> int:
    return sum(stage.epochs for stage in experiment.made().stages)


def bits_in_words(row: Published) -> str:
    """``W2/A2``; ``float``."""
    return "float" if row.bits == f"{FLOAT_BITS}/{FLOAT_BITS}" else f"W{row.w_bits}/A{row.a_bits}"
