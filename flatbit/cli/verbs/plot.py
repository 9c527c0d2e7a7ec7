"""flatbit plot: a figure of one kind, as a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ...analysis.schedules import Curve, schedule_curves
from ...figures.schedules import schedule_figure
from ...figures.style import check_ending, write_figure
from .. import COMMANDS
from ..choice import RecipeName, Settings, recipe_of
from ..console import Json, Out, parse_settings, say, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTURES_SHOWN = 4


class Kind(StrEnum):
    """What can be drawn."""

    SCHEDULE = "schedule"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What a kind of plot makes: the figure, a name for its file, and its result as table and as values."""

    name: str
    figure: Figure
    table: Table
    values: dict[str, Any]


def draw_recipe(
    kind: Annotated[Kind, typer.Argument(help="What to draw: a recipe's schedule.")],
    recipe: RecipeName,
    set: Settings = [],  # noqa: B006
    out: Out = None,
    json: Json = False,
) -> None:
    """Draw what a recipe will do before it runs: learning rate and samples per update of every stage, and its captures.

    Writes runs/RECIPE-schedule.png.

    `flatbit plot schedule faq --set training.accumulation=doubling --out schedule.svg`

    `flatbit plot schedule my_recipe.py`
    """
    if out is not None:
        check_ending(out)
    drawing = PLOTS[kind](recipe, parse_settings(set))
    out = out or Path("runs") / f"{drawing.name}-{kind}.png"
    write_figure(drawing.figure, out)
    say(f"figure: {out}")
    show(drawing.table, drawing.values | {"figure": str(out)}, json)


def _schedule(recipe: str, settings: dict[str, Any]) -> Drawing:
    """Learning rate and samples per update of every stage."""
    made = recipe_of(recipe, settings)
    curves = schedule_curves(made)
    title = f"{made.name}: schedule"
    table = Table("stage", "epochs", "first lr", "last lr", "samples per update", "captures after epoch")
    table.title, table.title_justify = title, "left"
    for curve in curves:
        table.add_row(*_row(curve))
    return Drawing(
        name=made.name,
        figure=schedule_figure(curves, title=title),
        table=table,
        values={"recipe": made.name, "stages": [_values(curve) for curve in curves]},
    )


def _row(curve: Curve) -> tuple[str, ...]:
    rates = [f"{curve.lr[i]:.4g}" for i in (0, -1)] if curve.epochs else ["-", "-"]
    sizes = [f"{size} from {epoch}" if epoch else str(size) for epoch, size in curve.batches.items()]
    return curve.stage, str(curve.epochs), *rates, ", ".join(sizes) or "-", _captures(curve.captures)


def _captures(epochs: tuple[int, ...]) -> str:
    if len(epochs) <= CAPTURES_SHOWN:
        return ", ".join(map(str, epochs)) or "-"
    return f"{epochs[0]}, {epochs[1]}, ..., {epochs[-1]} ({len(epochs)})"


def _values(curve: Curve) -> dict[str, Any]:
    first, last = (float(curve.lr[0]), float(curve.lr[-1])) if curve.epochs else (None, None)
    return {
        "name": curve.stage,
        "epochs": curve.epochs,
        "first_lr": first,
        "last_lr": last,
        "samples_per_update": [{"from_epoch": epoch, "samples": size} for epoch, size in curve.batches.items()],
        "captures": list(curve.captures),
    }


PLOTS: dict[Kind, Callable[[str, dict[str, Any]], Drawing]] = {Kind.SCHEDULE: _schedule}

COMMANDS.add("plot", draw_recipe)
