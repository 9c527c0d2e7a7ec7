"""flatbit list: what there is, by name."""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from ...data import DATASETS
from ...models import MODELS
from ...quant.presets import preset, preset_names
from ...quant.quantizers import METHODS
from ...recipes import RECIPES
from .. import COMMANDS
from ..console import Json, show


class Kind(StrEnum):
    """What can be listed."""

    RECIPES = "recipes"
    MODELS = "models"
    DATA = "data"
    QUANTIZERS = "quantizers"
    POLICIES = "policies"


def list_(
    kind: Annotated[Kind | None, typer.Argument(help="Everything, where not given.")] = None, json: Json = False
) -> None:
    """List recipes, models, data sets, quantizers and policies."""
    kinds = [kind] if kind else list(Kind)
    found = {shown.value: _listed(shown) for shown in kinds}
    show(Group(*(_table(title, entries) for title, entries in found.items())), found, json)


def _listed(kind: Kind) -> list[dict[str, str]]:
    if kind is Kind.QUANTIZERS:
        return [_quantizer(name) for name in METHODS.names()]
    if kind is Kind.POLICIES:
        return [
            {"name": name, "what": _first_line(preset(name)) or "first and last layer 8 bits"}
            for name in preset_names()
        ]
    registry: Any = {Kind.RECIPES: RECIPES, Kind.MODELS: MODELS, Kind.DATA: DATASETS}[kind]
    return [
        {"name": name, "parameters": _parameters(registry.get(name)), "what": _first_line(registry.get(name))}
        for name in registry.names()
    ]


def _quantizer(name: str) -> dict[str, str]:
    method = METHODS.get(name)
    parts = {"weights": method.weights, "activations": method.activations}
    bits = {what: _bits(made.supported_bits) if made else "-" for what, made in parts.items()}
    signed = getattr(method.activations, "signed_bits", getattr(method.activations, "supported_bits", None))
    return {"name": name, **bits, "signed activations": _bits(signed) if signed else "-", "paper": method.paper}


def _bits(bits: Any) -> str:
    return str(min(bits)) if len(bits) == 1 else f"{min(bits)}-{max(bits)}"


def _parameters(function: Any) -> str:
    given = getattr(function, "keywords", {})
    return ", ".join(
        f"{p.name}={p.default!r}" if p.default is not p.empty else p.name
        for p in inspect.signature(function).parameters.values()
        if p.name not in given
    )


def _first_line(function: Any) -> str:
    text = inspect.getdoc(getattr(function, "func", function)) or ""
    return text.split("\n")[0]


def _table(title: str, entries: list[dict[str, str]]) -> Table:
    table = Table(*entries[0], title=title, title_justify="left")
    for entry in entries:
        table.add_row(*entry.values())
    return table


COMMANDS.add("list", list_)
