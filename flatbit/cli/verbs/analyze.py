"""flatbit analyze: one analysis of a model, as a figure and in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ...figures import ANALYSES
from ...figures.style import check_ending, write_figure
from .. import COMMANDS
from ..console import DataArguments, DataDir, DataName, Device, Json, Out, StageName, Trust, data_arguments, say, show
from ..network import open_network

SHORT = 6  # parts of a value that a table shows one by one


def analyze_model(
    name: Annotated[str, typer.Argument(help=f"The analysis: {', '.join(ANALYSES.names())}, or a plug-in's.")],
    model: Annotated[str, typer.Argument(help="A run's folder, or a .safetensors file.")],
    stage: StageName = None,
    data: DataName = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    trust: Trust = False,
    device: Device = "cpu",
    out: Out = None,
    json: Json = False,
) -> None:
    """Look into a model: draw one analysis of it into runs/NAME.png, and say what was found.

    `flatbit analyze weights runs/quickstart/seed0 --stage uniq-w2a2`
    """
    analysis = ANALYSES.get(name)
    out = out or Path("runs") / f"{name}.png"
    check_ending(out)
    if not Path(model).is_dir() and Path(model).suffix != ".safetensors":
        raise ValueError(f"{model!r} is no run and no .safetensors file: nothing to analyze")
    opened = open_network(model, {}, stage=stage, trust=trust)
    if analysis.needs_data:
        loaded = opened.load_data(data, data_dir, arguments=data_arguments(data_arg, False), trust=trust)
    elif data or data_dir or data_arg:
        raise ValueError(f"analysis {name!r} looks at the model alone: --data and its options have no meaning for it")
    else:
        loaded = None
    result = analysis.compute(opened.network.to(device), loaded)
    if not is_dataclass(result):
        raise ValueError(
            f"analysis {name!r} gave {type(result).__name__}: expected a frozen dataclass of what it found"
        )
    title = f"{name}: {model}" + (f", stage {stage}" if stage else "")
    write_figure(analysis.draw(result, title=title), out)
    say(f"figure: {out}")
    show(_report(result, title), _plain(result) | {"figure": str(out)}, json)


def _facts(result: Any) -> dict[str, Any]:
    """A dataclass's fields, then its properties, by name."""
    properties = [name for name, member in vars(type(result)).items() if isinstance(member, property)]
    return {name: getattr(result, name) for name in [*(field.name for field in fields(result)), *properties]}


def _plain(value: Any) -> Any:
    """A result as JSON holds it: arrays and tensors as lists."""
    if is_dataclass(value):
        return {name: _plain(part) for name, part in _facts(value).items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _report(result: Any, title: str) -> Group:
    """A row of what was found, or a row of each part where the result is a sequence of such; no arrays."""
    rows = [_facts(result)]
    for value in rows[0].values():
        if isinstance(value, list | tuple) and value and is_dataclass(value[0]):
            rows = [_facts(part) for part in value]
    large = [name for name, value in rows[0].items() if _text(value) is None]
    columns = [name for name in rows[0] if name not in large]
    table = Table(*(escape(name.replace("_", " ")) for name in columns))
    for row in rows:
        table.add_row(*(escape(_text(row[name]) or "") for name in columns))
    more = [f"--json tells also: {', '.join(large)}"] if large else []
    return Group(escape(title), *([table] if columns else []), *map(escape, more))


def _text(value: Any) -> str | None:
    """A value in a cell of a table; None for one that is too large."""
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int | str):
        return str(value)
    named = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    parts = {name: _text(part) for name, part in named}
    if not 0 < len(parts) <= SHORT or None in parts.values():
        return None
    return ", ".join(f"{name}: {part}" if isinstance(value, Mapping) else str(part) for name, part in parts.items())


COMMANDS.add("analyze", analyze_model)
