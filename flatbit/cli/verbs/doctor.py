"""flatbit doctor: why a run stopped, and whether its quantized nets are healthy."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ... import data as datasets
from ...analysis.doctor import Diagnosis, diagnose
from ...engine.run import at_chance, read_run
from ...engine.start import matched
from ...metrics.health import Finding
from ...train.averaging import freeze_weight_steps_
from .. import COMMANDS
from ..console import DataDir, Device, Json, show
from ..network import Opened, open_network

NO_BETTER = "look at the stage that it starts from first; then train longer, or at another lr"
GOES_ON = "flatbit run ... --resume goes on"
STOPPED = (
    "the same settings stop again; begin a new run from the last sound stage, with the mend: flatbit run ... "
    "--weights RUN/stages/NAME.safetensors --set float_schedule=none --out ANOTHER"
)
COLUMNS = ("stage", "layer", "problem", "evidence", "mend")


def doctor(
    run: Annotated[Path, typer.Argument(help="A run's folder, finished or stopped.")],
    stage: Annotated[str | None, typer.Option(help="One stage. Default: every finished quantized one.")] = None,
    data: DataDir = None,
    updates: Annotated[int, typer.Option(min=0, help="Updates of the probe; 0 for none.")] = 50,
    trust: Annotated[bool, typer.Option(help="Import what the run names as package.module:function.")] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Explain a run that stopped or does badly: where, how it shows, and what mends it.

    First why it stopped, if it did. Then each finished stage: a batch through the net shows what is not finite,
    explodes, has a collapsed step, a dead clip or a saturated grid; and a copy of it is trained on, by plain updates
    with the stage's optimizer, to see whether learned steps jump (at the stage's highest lr) and weights
    oscillate (at its last). The run is left as it is. A report, not a test: the exit status is 0 whatever it finds.

    `flatbit doctor runs/quickstart/seed0 --stage uniq-w1a1`
    """
    record = read_run(run).record
    failure = record.get("failure")
    known = [*record["stages"], *([failure["stage"]] if failure else [])]
    if stage is not None and stage not in known:
        raise ValueError(f"{run} has no finished stage {stage!r}: it has {', '.join(known) or 'none'}")
    names = [name for name in record["stages"] if stage in (None, name)]
    found = {name: _diagnosis(run, record, name, data, updates, trust, device) for name in names}
    count = sum(diagnosis.num_quantizers for diagnosis in found.values())
    rows = [{"stage": f"{failure['stage']} (stopped)"} | finding for finding in failure["findings"]] if failure else []
    rows += [{"stage": name} | asdict(finding) for name, diagnosis in found.items() for finding in diagnosis.findings]
    missing = [s["name"] for s in record["recipe"]["stages"] if s["name"] not in record["stages"]]
    value = {"failure": failure, "quantizers": count, "findings": rows, "unfinished": missing}
    show(_report(failure, rows, count, len(found), missing), value, json)


def _diagnosis(
    run: Path, record: dict[str, Any], name: str, root: str | None, updates: int, trust: bool, device: str
) -> Diagnosis:
    """The doctor's word on one finished stage; of a float net only what a batch shows."""
    settings = next(settings for settings in record["recipe"]["stages"] if settings["name"] == name)
    opened = open_network(str(run), {}, stage=name, trust=trust)
    network = opened.network.to(device)
    if settings.get("fixed_weight_steps"):
        freeze_weight_steps_(network)
    data = _data(run, opened, root, trust)
    batches = data.train_batches(settings["batch_size"], seed=record["seed"], device=device)
    entry = record["stages"][name]
    lrs = [epoch["lr"] for epoch in entry["epochs"]] or [settings["lr"]]
    found = diagnose(
        network,
        batches,
        lr=max(lrs),
        last_lr=lrs[-1],
        updates=updates,
        **{key: settings[key] for key in ("optimizer", "weight_decay", "momentum", "nesterov")},
    )
    if not settings["epochs"] or not at_chance(entry, data.num_classes):
        return found
    evidence = f"top-1 {entry['test']['top1']:.1f} % of {data.num_classes} classes"
    guesses = Finding(layer="the net", problem="no better than guessing", evidence=evidence, mend=NO_BETTER)
    return replace(found, findings=[*found.findings, guesses])


def _data(run: Path, opened: Opened, root: str | None, trust: bool) -> Any:
    """The run's own data, as its network takes it."""
    assert opened.data is not None
    if ":" in opened.data and not trust:
        raise ValueError(f"{run} wants to import its data from {opened.data!r}: --trust it")
    return matched(datasets.load(opened.data, root, **opened.data_arguments or {}), opened.network)


def _report(
    failure: dict[str, Any] | None, rows: list[dict[str, str]], quantizers: int, stages: int, missing: list[str]
) -> Group:
    """What stopped the run and what it has not done, then the findings as a table, or that there are none."""
    parts: list[Any] = [escape(f"stopped: {failure['message']}")] if failure else []
    if missing:
        parts.append(escape(f"not finished: {', '.join(missing)}: {STOPPED if failure else GOES_ON}"))
    if rows:
        table = Table(*COLUMNS, show_lines=True)
        for row in rows:
            table.add_row(*(escape(row[column]) for column in COLUMNS))
        parts.append(table)
    if not rows or stages:
        checked = f"{quantizers} quantizers of {stages} finished stages"
        parts.append(f"{len(rows) or 'no'} findings in {checked}")
    return Group(*parts)


COMMANDS.add("doctor", doctor)
