"""flatbit list: what there is, by name."""

from __future__ import annotations

import inspect
import json as plain_text
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ... import plain
from ...data import DATASETS
from ...figures import ANALYSES
from ...models import MODELS
from ...plain import members
from ...quant.presets import preset, preset_names
from ...quant.quantizers import METHODS
from ...recipes import RECIPES, Registration
from ...reference import From
from ...settings import ON, part_of, places
from ...train.losses import LOSSES
from ...train.optimizers import OPTIMIZERS
from ...train.schedules import SCHEDULES
from .. import COMMANDS
from ..console import Json, show

OPTIONS = {"root": "--data-dir DIR", "skip_bad": "--skip-bad"}
"""Arguments of a data set that have options of their own."""
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true, false",
    type(None): "none",
    From: "start, stage:NAME, stage:NAME.average, file:PATH",
    Mapping: "a mapping",
}


class Kind(StrEnum):
    """What can be listed."""

    RECIPES = "recipes"
    MODELS = "models"
    DATA = "data"
    QUANTIZERS = "quantizers"
    POLICIES = "policies"
    LOSSES = "losses"
    OPTIMIZERS = "optimizers"
    SCHEDULES = "schedules"
    ANALYSES = "analyses"


def list_names(
    kind: Annotated[Kind | None, typer.Argument(help="Everything, where not given.")] = None,
    name: Annotated[str | None, typer.Argument(help="One recipe: its settings and what they are.")] = None,
    json: Json = False,
) -> None:
    """List recipes, models, data sets, quantizers, policies, losses, optimizers, schedules and analyses.

    `flatbit list recipes saq-preresnet20-cifar100`
    """
    if name is not None:
        if kind is not Kind.RECIPES:
            raise ValueError(f"list {kind} {name}: only a recipe has settings to list: flatbit list recipes NAME")
        settings = _settings(name)
        show(
            Group(escape(_text(RECIPES.get(name).stages)), "", _table(f"settings of {name}", settings)), settings, json
        )
        return
    kinds = [kind] if kind else list(Kind)
    found = {shown.value: _listed(shown) for shown in kinds}
    show(Group(*(_table(title, entries) for title, entries in found.items())), found, json)


def _listed(kind: Kind) -> list[dict[str, str]]:
    if kind is Kind.QUANTIZERS:
        return [_quantizer(name) for name in METHODS.names()]
    if kind is Kind.POLICIES:
        return [
            {"name": name, "what": _first_line(preset(name)) or "First and last layer 8 bits."}
            for name in preset_names()
        ]
    if kind is Kind.RECIPES:
        return [_recipe(name, RECIPES.get(name)) for name in RECIPES.names()]
    if kind is Kind.ANALYSES:
        return [{"name": name, "what": _first_line(ANALYSES.get(name).compute)} for name in ANALYSES.names()]
    registries: dict[Kind, Any] = {
        Kind.MODELS: MODELS, Kind.DATA: DATASETS, Kind.LOSSES: LOSSES, Kind.OPTIMIZERS: OPTIMIZERS,
        Kind.SCHEDULES: SCHEDULES,
    }  # fmt: skip
    registry = registries[kind]
    return [
        {"name": name, "parameters": _parameters(registry.get(name)), "what": _first_line(registry.get(name))}
        for name in registry.names()
    ]


def _recipe(name: str, found: Registration) -> dict[str, str]:
    arguments = ", ".join(f"{key}={value}" for key, value in found.model_arguments.items())
    settings = ", ".join(inspect.signature(found.stages).parameters)
    model = f"{found.model} ({arguments})" if arguments else found.model
    return {"name": name, "model": model, "data": found.data, "settings": settings, "what": _first_line(found.stages)}


def _settings(name: str) -> list[dict[str, str]]:
    """Every setting of a recipe by its place, what it is by default, and what it takes."""
    found = RECIPES.get(name)
    values: dict[str, Any] = found.arguments({})
    rows = []
    for place, kind in places(found.stages).items():
        outer, _, field = place.rpartition(".")
        if outer:
            values[place] = getattr(values[outer], field, None)
        part = part_of(kind)
        rows.append({"setting": place, "default": _default(values[place], kind, part), "takes": _takes(kind, part)})
        if part is not None and values[place] is None:
            values[place] = _once_on(found, place)
    return rows


def _once_on(found: Registration, place: str) -> Any:
    """What a part that is off holds once it is on; None where it has to be told."""
    try:
        value: Any = found.arguments({place: ON})
    except ValueError:
        return None
    for part in place.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def _default(value: Any, kind: Any, part: type | None) -> str:
    """As it would be typed; ``-`` where it has to be, nothing for a part that is always there."""
    if value is None:
        return "none" if type(None) in members(kind) else "-"
    if part is None or not isinstance(value, part):
        return _typed(value)
    return "on" if type(None) in members(kind) else ""


def _takes(kind: Any, part: type | None) -> str:
    known = members(kind)
    choices = [str(choice) for member in known for choice in get_args(member) if get_origin(member) is Literal]
    if part is not None:
        return ", ".join(["on", *choices, "none"]) if type(None) in known else "its settings"
    families = [plain.family_of(member) for member in known if isinstance(member, type)]
    if registry := next((family for family in families if family is not None), None):
        return ", ".join(registry.names())
    others = [member for member in known if get_origin(member) is not Literal]
    return ", ".join([*choices, *(WORDS.get(get_origin(member) or member, "a list") for member in others)])


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    if (family := plain.family_of(type(value))) is not None:
        return plain.name_of_kind(type(value), family)
    return str(value) if isinstance(value, str | From) else plain_text.dumps(value, default=str)


def _quantizer(name: str) -> dict[str, str]:
    method = METHODS.get(name)
    parts = {"weights": method.weights, "activations": method.activations}
    bits = {what: _bits(made.supported_bits) if made else "-" for what, made in parts.items()}
    signed = getattr(method.activations, "signed_bits", getattr(method.activations, "supported_bits", None))
    return {"name": name, **bits, "signed activations": _bits(signed) if signed else "-", "paper": method.paper}


def _bits(bits: Any) -> str:
    return str(min(bits)) if len(bits) == 1 else f"{min(bits)}-{max(bits)}"


def _parameters(function: Any) -> str:
    """The arguments of a function, each with its default as it is typed; those of a partial that are not given yet."""
    hidden = set(getattr(function, "keywords", {}))
    if hasattr(function, "__dataclass_fields__"):
        hidden |= {field.name for field in fields(function) if field.metadata.get("skipped")}
    shown = [p for p in inspect.signature(function).parameters.values() if p.name not in hidden]
    return ", ".join(
        OPTIONS.get(p.name) or p.name + ("" if p.default is p.empty else f"={_typed(p.default)}") for p in shown
    )


def _first_line(function: Any) -> str:
    return _text(function).split("\n")[0]


def _text(function: Any) -> str:
    return (inspect.getdoc(getattr(function, "func", function)) or "").replace("``", "`")


def _table(title: str, entries: list[dict[str, str]]) -> Table:
    table = Table(*entries[0], title=title, title_justify="left")
    for entry in entries:
        table.add_row(*entry.values())
    return table


COMMANDS.add("list", list_names)
