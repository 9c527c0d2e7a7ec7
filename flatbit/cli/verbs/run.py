"""flatbit run: a recipe by name, or from a file of yours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...engine import TensorBoard, plan
from ...engine import run as execute
from ...engine.edges import edged
from ...engine.loop import TrainingError
from ...engine.planning import Plan
from ...engine.record import RECORD, Run
from ...engine.seeds import run_seeds
from ...engine.way import Asked, compiled_too
from ...engine.words import in_words
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
    FirstLastBits,
    ImageBits,
    Json,
    ModelArguments,
    Out,
    Overwrite,
    PrecisionName,
    Recompute,
    Rename,
    Resume,
    Seed,
    Seeds,
    SkipBad,
    Smoke,
    Tensorboard,
    begin_anew,
    data_arguments,
    parse_seeds,
    parse_settings,
    say,
    show,
)
from ..network import given_checkpoint


def run_recipe(
    context: typer.Context,
    recipe: RecipeName,
    set: Settings = [],  # noqa: B006
    first_last_bits: FirstLastBits = None,
    image_bits: ImageBits = None,
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
    seeds: Seeds = None,
    device: Device = "cpu",
    engine: EngineName = None,
    compile: Compile = False,
    precision: PrecisionName = "float32",
    recompute: Recompute = False,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    smoke: Smoke = False,
    tensorboard: Tensorboard = False,
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

    Several seeds are a folder each in runs/RECIPE, one table of mean and spread, and one report.

    `flatbit run uniq-preresnet8-digits --set weights=1 --set activations=1 --seed 2`

    `flatbit run hol-fcdnn-spirals --seeds 0:5`

    `flatbit run saq-preresnet20-cifar100 --data-dir DIR --set sharpness.method=sam --set sharpness.rho=0.1 --dry-run`
    """
    options = {"--resume": resume, "--overwrite": overwrite, "--out": out is not None}
    if dry_run and (given_too := [option for option, is_given in options.items() if is_given]):
        raise ValueError(f"{given_too[0]} with --dry-run cannot act: nothing is run: leave it out")
    several = None if seeds is None else _seeds(seeds, context)
    chosen = compiled_too(engine) if compile else engine
    asked = Asked(engine=chosen, precision=precision, recompute=recompute)  # type: ignore[arg-type]
    (asked.alone if several else asked).way(device)
    network = Network(model=model, arguments=parse_settings(model_arg, "--model-arg"))
    made = recipe_of(recipe, parse_settings(set), network, data)
    made = edged(made, first_last_bits=first_last_bits, image_bits=image_bits)
    made = replace(made, data_arguments=dict(made.data_arguments) | data_arguments(data_arg, skip_bad))
    given = given_checkpoint(checkpoint, rename, checkpoint_key, as_built)
    out = out or Path("runs") / made.name / ("" if several else f"seed{seed}")
    folders = [out / f"seed{each}" for each in several or ()] or [out]
    begun = not (dry_run or overwrite) and any((folder / RECORD).is_file() for folder in folders)  # or refused
    planned = plan(
        made, seed=several[0] if several else seed, device=device, data_dir=data_dir, checkpoint=given, smoke=smoke,
        timing=not (smoke or begun) if timing is None else timing,
    )  # fmt: skip
    if dry_run:
        _show_plan(planned, several, json)
        return
    if planned.seconds is not None:
        each = f" a seed, {len(several)} seeds" if several else ""
        eager = "" if (asked.alone if several else asked).way(device) == asked.simplest else ", if it is run eager"
        say(f"{made.name}: about {in_words(planned.seconds)}{each}{eager}")
    begin_anew(folders, resume=resume, overwrite=overwrite)
    how: dict[str, Any] = {"engine": chosen, "precision": precision, "recompute": recompute, "resume": resume}
    how["callbacks"] = [TensorBoard()] if tensorboard else []
    runs = run_seeds(planned, several, out, **how, say=say) if several else [execute(planned, out, **how, say=say)]
    done = [each for each in runs if each.record.failure is None]
    if done:
        rows = summarize(done)
        show(table_of(rows, f"{made.name}, {_in_words([each.record.seed for each in done])}"), as_json(rows), json)
        page = write_page(done, out / "report.html", data_root=data_dir)
        say(f"run: {out}  report: {page}")
    _raise_failures(runs)


def _seeds(text: str, context: typer.Context) -> Sequence[int]:
    """The seeds of ``--seeds``. Raises ValueError, where ``--seed`` is given too."""
    source = context.get_parameter_source("seed")
    if source is not None and source.name == "COMMANDLINE":
        raise ValueError("--seed with --seeds cannot act: leave one out")
    return parse_seeds(text)


def _show_plan(planned: Plan, several: Sequence[int] | None, json: bool) -> None:
    found = planned.as_dict()
    if several:
        del found["seed"]
        found["seeds"] = list(several)
    show(planned.table(), found, json)
    for note in planned.notes:
        say(note)
    if several:
        say(f"this {len(several)} times, {_in_words(several)}: what it takes one after another; less where stacked")


def _in_words(seeds: Sequence[int]) -> str:
    """``seed 2``, ``seeds 0 to 4``, ``seeds 0, 3, 4``."""
    if len(seeds) > 2 and list(seeds) == [*range(seeds[0], seeds[0] + len(seeds))]:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _raise_failures(runs: Sequence[Run]) -> None:
    """Raise TrainingError where a seed's run failed."""
    failed = [each for each in runs if each.record.failure is not None]
    if failed:
        seeds = _in_words([each.record.seed for each in failed])
        raise TrainingError(
            f"{seeds} of {len(runs)} failed, as is said above; `flatbit doctor {failed[0].folder}` explains"
        )


COMMANDS.add("run", run_recipe)
