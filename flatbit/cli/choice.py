"""Which recipe a verb takes: a name or a file, its settings, and another network or data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..engine.recipe import Recipe
from ..recipes import RECIPES, Network
from ..settings import bound, check_that_all_act, places
from .plugins import loaded
from .spelling import check_settings

NO_ACTIVATIONS = ": give activation_method"
"""Where the library's words for a method that has none of activations begin to name what no verb has."""
RecipeName = Annotated[
    str, typer.Argument(help="A name of `flatbit list recipes`, or a Python file with a function `recipe`.")
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        help="A setting of the recipe, NAME=VALUE, as weights=2 or sharpness.rho=0.1; sharpness=none leaves a part "
        "out, lipschitz=on takes it as it is by default; may be repeated. `flatbit list recipes NAME` lists them.",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Another model than the recipe's; of arguments it has those of --model-arg alone."),
]


def recipe_of(name: str, given: dict[str, Any], network: Network = Network(), data: str | None = None) -> Recipe:
    """The recipe of a name or file with its settings.

    Args:
        name: of ``flatbit list recipes``, or a Python file.
        given: settings by place.
        network, data: in place of the recipe's.

    Raises:
        ValueError: a name or setting that is not known, a setting that could not act.
    """
    if name.endswith(".py"):
        return _from_file(name, given, network, data)
    registration = RECIPES.get(name)
    check_settings(list(given), places(registration.stages))
    try:
        return registration.recipe(name, given, network, data)
    except ValueError as error:
        words, give, _ = str(error).partition(NO_ACTIVATIONS)
        raise ValueError(f"{words}: --set activations=32 leaves them in float") if give else error from error


def _from_file(name: str, given: dict[str, Any], network: Network, data: str | None) -> Recipe:
    """What the function ``recipe`` of a user's file returns."""
    if not Path(name).is_file():
        raise ValueError(f"no such recipe file: {name}")
    function: Callable[..., Recipe] | None = getattr(loaded(Path(name)), "recipe", None)
    if function is None:
        raise ValueError(
            f"{name} has no function called recipe: write one that returns a Recipe, or, where the file registers "
            f"recipes, run one by its name with --plugin {name}"
        )

    def make(settings: Mapping[str, Any]) -> Recipe:
        return replace(_made(name, function, settings, network, data), settings={})

    try:
        check_that_all_act(function, given, make, lambda settings: bound(function, settings))
    except ValueError as error:
        prefix = "" if str(error).startswith(f"recipe {name!r}") else f"recipe {name!r}: "
        raise ValueError(f"{prefix}{error}") from error
    made = _made(name, function, given, network, data)
    return replace(made, settings=dict(made.settings) | given)


def _made(
    name: str, function: Callable[..., Recipe], given: Mapping[str, Any], network: Network, data: str | None
) -> Recipe:
    """The recipe that a user's function returns, with another network or data set in place of its own."""
    made = function(**_arguments(name, function, given))
    if not isinstance(made, Recipe):
        raise ValueError(
            f"recipe {name!r} returned {type(made).__name__}: expected a flatbit.engine.Recipe; a function that "
            "returns stages is registered (RECIPES.add) and run by its name with --plugin"
        )
    return replace(
        made,
        model=network.model or made.model,
        model_arguments=({} if network.model else dict(made.model_arguments)) | dict(network.arguments),
        data=data or made.data,
        data_arguments={} if data not in (None, made.data) else made.data_arguments,
    )


def _arguments(name: str, function: Callable[..., Recipe], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a user's function. Raises ValueError for settings that do not fit, or are missing."""
    try:
        arguments = bound(function, given)
    except ValueError as error:
        raise ValueError(f"recipe {name!r}: {error}") from error
    known = inspect.signature(function).parameters.values()
    named = [
        parameter for parameter in known if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    missing = [each.name for each in named if each.default is each.empty and each.name not in arguments]
    if missing:
        raise ValueError(f"recipe {name!r} needs {', '.join(missing)}: give --set {missing[0]}=VALUE")
    return arguments
