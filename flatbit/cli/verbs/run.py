"""flatbit run: a recipe by name, or from a file of yours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ...engine import plan
from ...engine import run as execute
from ...engine.planning import in_words
from ...engine.record import RECORD
from ...engine.way import Asked, compiled_too
from ...recipes import Network
from ...report.page import write_page
from ...report.summary import as_json, summarize, table_of
from .. import COMMANDS
from ..choice import ModelName, RecipeName, Settings, recipe_of
from ..console import (
    AsBuilt,
    CheckpointFile,
    CheckpointKey,
    Compile,
    DataArguments,
    DataDir,
    DataName,
    Device,
    EngineName,
    Json,
    ModelArguments,
    Out,
    PrecisionName,
    Recompute,
    Rename,
    Resume,
    Seed,
    SkipBad,
    Smoke,
    data_arguments,
    parse_settings,
    say,
    show,
)
from ..network import given_checkpoint


def run_recipe(
    recipe: RecipeName,
    set: Settings = [],  # noqa: B006
    model: ModelName = None,
    model_arg: ModelArguments = [],  # noqa: B006
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    skip_bad: SkipBad = False,
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    rename: Rename = [],  # noqa: B006
    as_built: AsBuilt = [],  # noqa: B006
    seed: Seed = 0,
    device: Device = "cpu",
    engine: EngineName = None,
    compile: Compile = False,
    precision: PrecisionName = "float32",
    recompute: Recompute = False,
    out: Out = None,
    resume: Resume = False,
    smoke: Smoke = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan: stages, updates, bits, cost, time. Nothing is trained.")
    ] = False,
    timing: Annotated[
        bool | None,
        typer.Option(
            "--timing/--no-timing",
            help="Time two updates of each stage first, to say how long it takes. Default: unless it is a smoke run, "
            "or begun already.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run a recipe and leave one folder, runs/RECIPE/seedN: run.json, model.safetensors, report.html.

    `flatbit run uniq-preresnet8-digits --set weights=1 --set activations=1 --seed 2`

    `flatbit run saq-preresnet20-cifar100 --data-dir DIR --set sharpness.method=sam --set sharpness.rho=0.1 --dry-run`
    """
    if dry_run and (resume or out is not None):
        raise ValueError(f"{'--resume' if resume else '--out'} with --dry-run cannot act: nothing is run: leave it out")
    chosen = compiled_too(engine) if compile else engine
    asked = Asked(engine=chosen, precision=precision, recompute=recompute)  # type: ignore[arg-type]
    asked.way(device)
    network = Network(model=model, arguments=parse_settings(model_arg, "--model-arg"))
    made = recipe_of(recipe, parse_settings(set), network, data)
    made = replace(made, data_arguments=dict(made.data_arguments) | data_arguments(data_arg, skip_bad))
    given = given_checkpoint(checkpoint, rename, checkpoint_key, as_built)
    out = out or Path("runs") / made.name / f"seed{seed}"
    begun = not dry_run and (out / RECORD).is_file()  # or refused
    planned = plan(
        made, seed=seed, device=device, data_dir=data_dir, checkpoint=given, smoke=smoke,
        timing=not (smoke or begun) if timing is None else timing,
    )  # fmt: skip
    if dry_run:
        show(planned.table(), planned.as_dict(), json)
        for note in planned.notes:
            say(note)
        return
    if planned.seconds is not None:
        say(f"{made.name}: about {in_words(planned.seconds)}")
    done = execute(planned, out, resume=resume, engine=chosen, precision=asked.precision, recompute=recompute, say=say)
    rows = summarize([done])
    show(table_of(rows, f"{made.name}, seed {seed}"), as_json(rows), json)
    page = write_page([done], out / "report.html", data_root=data_dir)
    say(f"run: {out}  report: {page}")


COMMANDS.add("run", run_recipe)
