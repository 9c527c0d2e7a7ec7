"""flatbit run: a recipe by name, or from a file of yours."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...engine import run as engine
from ...engine.recipe import Recipe
from ...recipes import RECIPES
from ...registry import nearest
from ...report.page import write_page
from ...report.summary import as_json, summarize, table_of
from .. import COMMANDS
from ..console import (
    DataArguments,
    DataDir,
    Device,
    Json,
    Seed,
    SkipBad,
    data_arguments,
    parse_names,
    parse_settings,
    say,
    show,
)
from ..network import Rename, Weights


def run(
    recipe: Annotated[
        str, typer.Argument(help="A name of `flatbit list recipes`, or a Python file with a function `recipe`.")
    ],
    data: DataDir = None,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/RECIPE/seedN.")] = None,
    set: Annotated[list[str], typer.Option(help="A parameter of the recipe, NAME=VALUE; may be repeated.")] = [],  # noqa: B006
    data_arg: DataArguments = [],  # noqa: B006
    weights: Weights = None,
    rename: Rename = [],  # noqa: B006
    skip_bad: SkipBad = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out, exactly where it was cut off.")] = False,
    smoke: Annotated[bool, typer.Option(help="Two updates per stage: does it run at all.")] = False,
    json: Json = False,
) -> None:
    """Run a recipe and leave one folder: run.json, model.safetensors, report.html.

    `flatbit run uniq-preresnet8-digits --set weights=1 --set activations=1 --seed 2`
    """
    made = make_recipe(recipe, parse_settings(set))
    made = replace(made, data_arguments=dict(made.data_arguments) | data_arguments(data_arg, skip_bad))
    out = out or Path("runs") / made.name / f"seed{seed}"
    done = engine.run(
        made, out, seed=seed, device=device, data_root=data, weights=weights, rename=parse_names(rename),
        resume=resume, smoke=smoke, say=say,
    )  # fmt: skip
    rows = summarize([done])
    show(table_of(rows, f"{made.name}, seed {seed}"), as_json(rows), json)
    page = write_page([done], out / "report.html", data_root=data)
    say(f"run: {out}  report: {page}")


def make_recipe(name: str, settings: dict[str, Any]) -> Recipe:
    """The recipe of a name or file with its parameters set. Raises ValueError for unknown ones."""
    function = _from_file(Path(name)) if name.endswith(".py") else RECIPES.get(name)
    known = inspect.signature(function).parameters
    for setting in settings:
        if setting not in known:
            raise ValueError(f"recipe {name!r} has no parameter {setting!r}: {nearest(setting, known)}")
    try:
        made = function(**settings)
    except TypeError as error:
        if name.endswith(".py"):
            raise  # a mistake in the user's file, whose place the traceback tells
        raise ValueError(f"recipe {name!r} with {settings}: {error}: see --set NAME=VALUE") from error
    if not isinstance(made, Recipe):
        raise ValueError(f"recipe {name!r} returned {type(made).__name__}: expected a flatbit.engine.recipe.Recipe")
    return replace(made, parameters=dict(made.parameters) | settings)


def _from_file(path: Path) -> Callable[..., Recipe]:
    if not path.is_file():
        raise ValueError(f"no such recipe file: {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "recipe"):
        raise ValueError(f"{path} has no function called recipe: see `flatbit list recipes` for examples")
    return module.recipe


COMMANDS.add("run", run)
