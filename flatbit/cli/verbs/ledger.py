"""flatbit ledger: the papers' numbers beside ours, and the queue that fills them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from ...engine.record import RECORD
from ...ledger import words
from ...ledger.cells import Cell, bits_in_words, cells, summary
from ...ledger.evidence import Shelf, of_run, ours, read, shelf, write
from ...ledger.experiments import chain, experiment
from ...ledger.groups import chosen
from ...ledger.lock import locked
from ...ledger.packing import MIB, pack, unpack
from ...ledger.page import write_page
from ...ledger.published import selected
from ...ledger.queue import Queue, carried, work
from ...ledger.searched import searched
from .. import COMMANDS
from ..console import DataDir, Device, Json, Out, Smoke, say, show

PACK_S = 30.0
"""Of the budget is kept to pack."""
Places = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PAPER[/TABLE]]...", help="As SAQ, SAQ/T1 or SAQ-T1-03; all where none is named."),
]
Records = Annotated[
    list[Path],
    typer.Option(help="A further folder of records, or of runs of yours; may be repeated."),
]


class Ledger(TyperGroup):
    """The verb's own verbs; where none of them is named, ``show`` is meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in ``show``."""
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["show", *args])


LEDGER = typer.Typer(
    cls=Ledger,
    help="The 761 numbers that the five papers publish, beside ours; and the queue of runs that fill them.\n\n"
    "`flatbit ledger SAQ/T1` shows a table of a paper (that is `flatbit ledger show SAQ/T1`).",
    rich_markup_mode="markdown",
)


@LEDGER.command("show")
def show_cells(
    places: Places = None,
    records: Records = [],  # noqa: B006
    status: Annotated[str | None, typer.Option(help="Rows of this status alone, as reproduced, or 'not run'.")] = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="The command of each run, in place of the rows.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with all of it: sortable, filterable.")] = None,
    json: Json = False,
) -> None:
    """Published | ours | difference | status, of papers and tables. What can be counted is computed now.

    A row is `reproduced` where full-length runs of two seeds or more come within 0.5 points (1 % where the unit is
    another one). Accuracies are of the last epoch. `needs data` names what we do not have; `cited only` is what a paper
    quotes from others.

    `flatbit ledger UNIQ/T1`

    `flatbit ledger HOL SAQ/TC --html ledger.html`

    `flatbit ledger SAQ/T1 --commands`
    """
    rows = selected(places or [])
    kept = shelf(records)
    found = [cell for cell in cells(rows, kept) if status is None or cell.status.startswith(status)]
    if not found:
        raise ValueError(f"--status {status}: no such row; there are {', '.join(summary(cells(rows, kept)))}")
    _say_left_out(kept, records)
    if html is not None:
        say(f"page: {write_page(found, html)}")
    values = {"summary": summary(found), "cells": [cell.as_dict() for cell in found]}
    show(_commands(found) if commands else _table(found), values, json)


@LEDGER.command("run")
def run_queue(
    places: Places = None,
    budget_minutes: Annotated[float, typer.Option(min=0.01, help="All of it ends within.")] = 60,
    data_dir: DataDir = None,
    device: Device = "cpu",
    out: Out = Path("runs/ledger"),
    records: Records = [],  # noqa: B006
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Take the first group though it does not fit; it goes on another time."),
    ] = False,
    carry: Annotated[
        Path | None,
        typer.Option(
            help="A folder of archives to go on from, elsewhere: what --out lacks is taken from them first, and what "
            "another machine needs is put into them at the end."
        ),
    ] = None,
    max_files: Annotated[int, typer.Option(min=1, help="In --carry.")] = 8,
    max_file_mib: Annotated[float, typer.Option(min=0.1, help="Of each file in --carry.")] = 16,
    smoke: Smoke = False,
    json: Json = False,
) -> None:
    """Run what the ledger lacks, the most valuable first, inside a budget; it goes on where it was, on any machine.

    Takes the first group of runs that fits into what is left (`flatbit ledger queue` lists them), float nets that
    others start from first. Each finished or diverged run leaves a record in --out/records: put it into a folder that
    --records names. It ends in time, and at SIGTERM, with all that was finished; what is begun goes on next time.
    With --smoke it leaves no records.

    `flatbit ledger run HOL/Fig2 --budget-minutes 90`

    `flatbit ledger run --budget-minutes 9 --data-dir DIR --device cuda --partial`
    """
    assert out is not None
    asked = chosen(places or [], device)
    begun, kept = time.monotonic(), PACK_S if carry is not None else 0.0
    if 60 * budget_minutes <= kept:
        raise ValueError(f"--budget-minutes {budget_minutes:g} with --carry: {kept:g} s are kept to pack: give more")
    with locked(out):
        if carry is not None and carry.is_dir():
            say(f"{len(unpack(carry, out))} files taken from {carry}")
        queue = Queue(
            out=out, data_dir=Path(data_dir) if data_dir else None, device=device, say=say, more=records, smoke=smoke
        )
        try:
            left = budget_minutes - (time.monotonic() - begun + kept) / 60
            won = work(queue, asked, minutes=left, partial=partial)
        finally:
            if carry is not None:
                _pack(queue, carry, max_files, max_file_mib)
    names = {found.experiment: [each.run.seed for each in won if each.experiment == found.experiment] for found in won}
    table = Table("experiment", "seeds")
    for name, seeds in names.items():
        table.add_row(name, ", ".join(map(str, seeds)))
    show(
        Lines(*([table] if won else []), f"{len(won)} records in {queue.records}"),
        {"records": str(queue.records), "won": names},
        json,
    )


@LEDGER.command("queue")
def list_queue(places: Places = None, device: Device = "cpu", json: Json = False) -> None:
    """The queue's groups in order: what each shows, its runs, and how many of them are recorded.

    `flatbit ledger queue --device cuda`
    """
    kept = shelf()
    table = Table("group", "shows", "runs", "recorded", title="the queue, in order")
    values = []
    for group in chosen(places or [], device):
        done = sum(len([e for e in kept.of(name).values() if not kept.variation(e)]) for name in group.experiments)
        total = len(group.experiments) * group.seeds
        seeds = f", {group.seeds} seeds" if group.seeds > 1 else ""
        table.add_row(group.name, group.why, ", ".join(group.experiments) + seeds, f"{min(done, total)} of {total}")
        facts = {"name": group.name, "why": group.why, "experiments": group.experiments, "seeds": group.seeds}
        values.append(facts | {"recorded": min(done, total)})
    show(table, values, json)


@LEDGER.command("add")
def add_runs(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of the ledger's experiments.")],
    to: Annotated[Path, typer.Option(help="The folder of records.")] = Path("records"),
    json: Json = False,
) -> None:
    """Make records of finished runs that the queue did not make. Which experiment one is, its recipe says.

    `flatbit ledger add runs/hol/f2-128-4/seed0 --to records`
    """
    written = []
    for folder in runs:
        found = of_run(folder)
        if not found.experiment:
            raise ValueError(f"{folder}: its recipe is none of the ledger's (`flatbit ledger --commands` lists them)")
        written.append(write(found, to))
    show(escape("\n".join(map(str, written))), [str(path) for path in written], json)


@LEDGER.command("verify")
def verify_records(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of records. Default: ours.")] = None,
    json: Json = False,
) -> None:
    """Compute every record's digest anew, and refuse what was edited, damaged, or is of an unknown format.

    A folder of the queue's has its records in `records`.

    `flatbit ledger verify`
    """
    roots = [folder / "records" if (folder / "records").is_dir() else folder for folder in folders or [ours()]]
    paths = [path for root in roots for path in sorted(root.rglob("*.json")) if path.name != RECORD]
    if not paths:
        raise ValueError(f"no records in {', '.join(map(str, folders or [ours()]))}")
    wrong = {}
    for path in paths:
        try:
            read(path)
        except ValueError as error:
            wrong[str(path)] = str(error)
    if wrong:
        listed = "; ".join(f"{path}: {why}" for path, why in wrong.items())
        raise ValueError(f"{len(wrong)} of {len(paths)} records are refused: {listed}")
    show(f"{len(paths)} records: every digest holds", {"records": len(paths)}, json)


def _pack(queue: Queue, carry: Path, files: int, mib: float) -> None:
    """Pack what any group needs to go on, not only those that were asked for."""
    carry.mkdir(parents=True, exist_ok=True)
    keep = carried(queue, chosen())
    packed = pack(queue.out, carry, files=files, file_bytes=int(mib * MIB), seconds=PACK_S, keep=keep)
    say(f"{sum(map(len, packed.archives))} files packed into {len(packed.archives)} of {carry}")
    for name, why in packed.left_out.items():
        say(f"  left out: {name}: {why}")


def _say_left_out(kept: Shelf, records: Sequence[Path]) -> None:
    for path, why in kept.left_out.items():
        if path.is_relative_to(ours()) or records:
            say(f"left out: {path}: {why}")


def _table(found: Sequence[Cell]) -> Lines:
    table = Table("id", "of", "bits", "metric", "published", "ours", "difference", "status", "how")
    for cell in found:
        row = cell.row
        of = escape(f"{row.network}, {row.method}")
        numbers = words.number(row.value), words.ours(cell), words.difference(cell)
        table.add_row(row.id, of, bits_in_words(row), row.metric, *numbers, words.status(cell), words.how(cell))
    counts = ", ".join(f"{count} {status}" for status, count in summary(found).items())
    return Lines(table, f"{len(found)} rows: {counts}")


def _commands(found: Sequence[Cell]) -> str:
    """The commands of the runs, of what they start from first; and why rows without one have none."""
    made: dict[str, str] = {}
    without: dict[str, str] = {}
    for cell in found:
        if (search := searched(cell.row)) is not None:
            needed, last = (search.start,), {search.name: f"# {search.what}\n" + "\n".join(search.commands())}
        elif cell.experiment is not None:
            needed, last = (*chain(cell.experiment), cell.experiment.name), {}
        else:
            without[cell.row.id] = words.status(cell)
            continue
        for entry in map(experiment, needed):
            made.setdefault(entry.name, f"# {entry.what}\n{entry.command()}")
        made |= last
    lines = [escape(command) for command in made.values()]
    return "\n".join([*lines, *(f"# {row}: {escape(why)}" for row, why in without.items())])


COMMANDS.add("ledger", LEDGER)
