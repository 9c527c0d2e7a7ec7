"""flatbit analyze: one analysis of a model, or of several, as a figure and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from ...analysis.saved import write_result
from ...figures import ANALYSES, KEEP, Analysis
from ...figures.style import check_ending, write_figure
from .. import COMMANDS
from ..choice import Settings
from ..console import (
    DataArguments,
    DataDir,
    DataName,
    Device,
    Json,
    Out,
    StageName,
    Trust,
    data_arguments,
    parse_settings,
    say,
    show,
)
from ..findings import plain_values, report
from ..network import Opened, open_network


def analyze_model(
    name: Annotated[str, typer.Argument(help=f"The analysis: {', '.join(ANALYSES.names())}, or a plug-in's.")],
    models: Annotated[list[str], typer.Argument(help="A run's folder, or a .safetensors file; several where it can.")],
    set: Settings = [],  # noqa: B006
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

    RUN/analysis/NAME/ keeps the result, which `flatbit plot NAME RUN` draws again, and until it is there its parts.

    `flatbit analyze weights runs/quickstart/seed0 --stage uniq-w2a2`

    `flatbit analyze plane runs/sqwa/stages/retrain@*.safetensors --set points=11`
    """
    analysis = ANALYSES.get(name)
    settings = analysis.settings(parse_settings(set))
    out = out or Path("runs") / f"{name}.png"
    check_ending(out)
    for model in models:
        if not Path(model).is_dir() and Path(model).suffix != ".safetensors":
            raise ValueError(f"{model!r} is no run and no .safetensors file: nothing to analyze")
    opened = _opened(analysis, name, models, stage, trust)
    first = next(iter(opened.values()))
    if analysis.needs_data:
        source = first if data else first.with_data_of_run(trust=trust)
        loaded = source.load_data(data, data_dir, arguments=data_arguments(data_arg, False), trust=trust)
    elif data or data_dir or data_arg:
        raise ValueError(f"analysis {name!r} looks at the model alone: --data and its options have no meaning for it")
    else:
        loaded = None
    folder = first.folder and first.folder / "analysis" / name
    networks: dict[str, nn.Module] = {label: each.network.to(device) for label, each in opened.items()}
    keep = {KEEP: folder} if analysis.keeps else {}
    result = analysis.compute(networks if analysis.several else first.network, loaded, **settings, **keep)
    if not is_dataclass(result):
        raise ValueError(
            f"analysis {name!r} gave {type(result).__name__}: expected a frozen dataclass of what it found"
        )
    title = f"{name}: {', '.join(opened)}" + (f", stage {stage}" if stage else "")
    if folder is not None:
        write_result(folder, result, title=title)
    write_figure(analysis.draw(result, title=title), out)
    say(f"figure: {out}")
    show(report(result, title), plain_values(result) | {"figure": str(out)}, json)


def _opened(analysis: Analysis, name: str, models: Sequence[str], stage: str | None, trust: bool) -> dict[str, Opened]:
    """Every model, by the name that pictures carry: its own, or where there are several what tells them apart.

    Raises ValueError for several where the analysis takes one, or one that is named twice.
    """
    if len(models) > 1 and not analysis.several:
        raise ValueError(f"analysis {name!r} looks at one model, got {len(models)}: {', '.join(models)}")
    if len({*models}) < len(models):
        raise ValueError(f"analysis {name!r} got a model twice: {', '.join(models)}: expected each once")
    short = [Path(model).stem if Path(model).suffix == ".safetensors" else Path(model).name for model in models]
    labels = short if 1 < len({*short}) == len(short) else models
    found = zip(labels, models, strict=True)
    return {label: open_network(model, {}, stage=stage, trust=trust) for label, model in found}


COMMANDS.add("analyze", analyze_model)
