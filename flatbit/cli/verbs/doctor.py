"""flatbit doctor: why a run stopped, and whether its quantized nets are healthy."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ...analysis.doctor import Diagnosis, diagnose
from ...analysis.next_step import Compared, compare
from ...engine.record import Failure, Run, read_run
from ...metrics.health import Finding
from ...train.averaging import freeze_weight_steps_
from .. import COMMANDS
from ..console import DataDir, Device, Json, StageName, Trust, show
from ..network import open_network

NO_BETTER = "look at the stage that it starts from first; then train longer, or at another lr"
GOES_ON = "flatbit run ... --resume goes on"
STOPPED = (
    "the same settings stop again; begin a new run from the last sound stage, with the mend: flatbit run ... "
    "--checkpoint RUN/stages/NAME.safetensors --set pretraining=none --out ANOTHER"
)
COLUMNS = ("stage", "layer", "problem", "evidence", "mend")


def explain_run(
    run: Annotated[Path, typer.Argument(help="A run's folder, finished or stopped.")],
    stage: StageName = None,
    data_dir: DataDir = None,
    updates: Annotated[int, typer.Option(min=0, help="Updates of the probe; 0 for none.")] = 50,
    trust: Trust = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Explain a run that stopped or does badly: where, how it shows, and what mends it.

    First why it stopped, if it did. Then each finished stage: a batch through the net shows what is not finite,
    explodes, has a collapsed step, a dead clip or a saturated grid; and a copy of it is trained on, by plain updates
    with the stage's optimizer, to see whether learned steps jump (at the stage's highest lr) and weights
    oscillate (at its last). Each quantized stage is held against the float net, with the next thing to try. The run
    is left as it is. A report, not a test: the exit status is 0 whatever it finds.

    `flatbit doctor runs/quickstart/seed0 --stage uniq-w1a1`
    """
    read = read_run(run, trust=trust)
    record = read.record
    failure = record.failure
    known = [*record.stages, *([failure.stage] if failure else [])]
    if stage is not None and stage not in known:
        raise ValueError(f"{run} has no finished stage {stage!r}: it has {', '.join(known) or 'none'}")
    names = [name for name in record.stages if stage in (None, name)]
    seen = {name: _diagnosis(read, name, data_dir, updates, trust, device) for name in names}
    found = {name: diagnosis for name, (diagnosis, _) in seen.items()}
    count = sum(diagnosis.num_quantizers for diagnosis in found.values())
    rows = (
        [{"stage": f"{failure.stage} (stopped)"} | asdict(finding) for finding in failure.findings] if failure else []
    )
    rows += [{"stage": name} | asdict(finding) for name, diagnosis in found.items() for finding in diagnosis.findings]
    compared = [compare(record, name, seen[name][0].findings, num_classes=seen[name][1]) for name in names]
    compared = [each for each in compared if each is not None]
    missing = [s.name for s in record.recipe.stages if s.name not in record.stages]
    value = {"failure": failure and asdict(failure), "quantizers": count, "findings": rows, "unfinished": missing}
    value["compared"] = [asdict(each) | {"below": each.below} for each in compared]
    show(Group(_report(failure, rows, count, len(found), missing), *_lines(compared)), value, json)


def _diagnosis(
    run: Run, name: str, data_dir: str | None, updates: int, trust: bool, device: str
) -> tuple[Diagnosis, int]:
    """The doctor's word on one finished stage, of a float net only what a batch shows; and the number of classes."""
    stage, entry = run.record.recipe.stage(name), run.record.stages[name]
    opened = open_network(str(run.folder), {}, stage=name, trust=trust)
    network = opened.network.to(device)
    if stage.fixed_weight_steps:
        freeze_weight_steps_(network)
    data = opened.load_data(None, data_dir, arguments={}, trust=trust)
    batches = data.train_batches(stage.batch_size, seed=run.record.seed, device=device)
    lrs = [epoch.lr for epoch in entry.epochs] or [stage.lr or 0.0]
    found = diagnose(
        network,
        batches,
        lr=max(lrs),
        last_lr=lrs[-1],
        optimizer=stage.optimizer,
        weight_decay=stage.weight_decay,
        updates=updates if stage.epochs else 0,
    )
    if not stage.epochs or not entry.at_chance(data.num_classes):
        return found, data.num_classes
    evidence = f"top-1 {entry.test.top1:.1f} % of {data.num_classes} classes"
    guesses = Finding(layer="the net", problem="no better than guessing", evidence=evidence, mend=NO_BETTER)
    return replace(found, findings=(*found.findings, guesses)), data.num_classes


def _report(
    failure: Failure | None, rows: list[dict[str, Any]], quantizers: int, stages: int, missing: list[str]
) -> Group:
    """What stopped the run and what it has not done, then the findings as a table, or that there are none."""
    parts: list[Any] = [escape(f"stopped: {failure.message}")] if failure else []
    if missing:
        parts.append(escape(f"not finished: {', '.join(missing)}: {STOPPED if failure else GOES_ON}"))
    if rows:
        table = Table(*COLUMNS, show_lines=True)
        for row in rows:
            table.add_row(*(escape(row[column]) for column in COLUMNS))
        parts.append(table)
    if not rows or stages:
        checked = f"{_count(quantizers, 'quantizer')} of {_count(stages, 'finished stage')}"
        parts.append(f"{_count(len(rows), 'finding') if rows else 'no findings'} in {checked}")
    return Group(*parts)


def _lines(compared: list[Compared]) -> list[str]:
    """A line for each quantized stage: what it lost against float, and what to try next."""
    return [escape(str(each)) for each in compared]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


COMMANDS.add("doctor", explain_run)
