"""flatbit plot: a figure as a file, of a recipe's schedule or of what an analysis of a run has found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table

from ...analysis.saved import FILE, read_result
from ...analysis.schedules import Curve, schedule_curves
from ...figures import ANALYSES
from ...figures.schedules import schedule_figure
from ...figures.style import check_ending, write_figure
from ...registry import nearest
from .. import COMMANDS
from ..choice import Settings, recipe_of
from ..console import Json, Out, parse_settings, say, show
from ..findings import plain_values, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTURES_SHOWN = 4
SCHEDULE = "schedule"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A figure, a name for its file, and its result for people and as values."""

    name: str
    figure: Figure
    table: RenderableType
    values: dict[str, Any]


def draw_figure(
    kind: Annotated[str, typer.Argument(help="What to draw: schedule, or the name of an analysis.")],
    of: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN", help="schedule: a recipe's name or file. An analysis: a run that it looked into."
        ),
    ],
    set: Settings = [],  # noqa: B006
    out: Out = None,
    json: Json = False,
) -> None:
    """Draw what a recipe will do, before it runs, or draw again what an analysis of a run found, without its nets.

    The schedule has learning rate and samples per update of every stage, and its captures. Of an analysis the result
    is read that `flatbit analyze` left in RUN/analysis/KIND. Writes runs/RECIPE-schedule.png, or runs/KIND.png.

    `flatbit plot schedule faq --set training.accumulation=doubling --out schedule.svg`

    `flatbit plot schedule my_recipe.py`

    `flatbit plot plane runs/sqwa --out plane.svg`
    """
    if out is not None:
        check_ending(out)
    drawing = _schedule(of, parse_settings(set)) if kind == SCHEDULE else _found(kind, of, set)
    out = out or Path("runs") / f"{drawing.name}.png"
    write_figure(drawing.figure, out)
    say(f"figure: {out}")
    show(drawing.table, drawing.values | {"figure": str(out)}, json)


def _found(name: str, run: str, settings: list[str]) -> Drawing:
    """What an analysis found. Raises ValueError for an unknown one, or one without a result there."""
    if name not in ANALYSES.names():
        raise ValueError(f"cannot plot {name!r}: {nearest(name, [SCHEDULE, *ANALYSES.names()])}")
    analysis = ANALYSES.get(name)
    if settings:
        raise ValueError(f"--set has no meaning for a result that is there: flatbit analyze {name} takes it")
    if analysis.result is None:
        raise ValueError(f"analysis {name!r} does not say what it finds: annotate what its compute returns")
    folder = Path(run) / "analysis" / name
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder / FILE} does not exist: first let it be found: flatbit analyze {name} {run}")
    saved = read_result(folder, analysis.result)
    return Drawing(
        name=name,
        figure=analysis.draw(saved.result, title=saved.title),
        table=report(saved.result, saved.title),
        values=plain_values(saved.result),
    )


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
        name=f"{made.name}-{SCHEDULE}",
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


COMMANDS.add("plot", draw_figure)
