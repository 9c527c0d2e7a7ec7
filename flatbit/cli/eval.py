"""flatbit eval: score a model file or a run, with its convention and proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .. import data as datasets
from ..models import build
from ..quant.files import load, load_
from ..train.evaluate import evaluate
from ..train.run import read_run
from . import COMMANDS
from .console import DataDir, Device, Json, parse_settings, show


def eval_(
    model: Annotated[
        str, typer.Argument(help="A run's folder, a .safetensors file, or a model to load --weights into.")
    ],
    data: Annotated[str | None, typer.Option(help="The data set. Default: the run's own.")] = None,
    data_dir: DataDir = None,
    weights: Annotated[
        Path | None, typer.Option(help="A safetensors file for a model given by name or package.module:function.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="A stage of the run. Default: its last.")] = None,
    set: Annotated[list[str], typer.Option(help="An argument of the model, NAME=VALUE.")] = [],  # noqa: B006
    trust: Annotated[bool, typer.Option(help="Import what the run or file names as package.module:function.")] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Score a model on a test set: top-1, top-5, loss, levels in use, convention.

    `flatbit eval runs/quickstart/seed0 --stage uniq-w2a2`
    """
    folder = Path(model)
    if folder.is_dir():
        done = read_run(folder)
        recorded = done.record["recipe"]["data"]
        if data is None and ":" in recorded and not trust:
            raise ValueError(
                f"{folder} wants to import its data from {recorded!r}: --trust it, or say --data {recorded}"
            )
        data = data or recorded
        file = folder / "stages" / f"{stage}.safetensors" if stage else folder / "model.safetensors"
        if not file.is_file():
            raise ValueError(
                f"{folder} has no finished stage {stage!r}: it has {', '.join(done.record['stages']) or 'none'}"
            )
        network = load(file, trust=trust)
    elif folder.suffix == ".safetensors":
        network = load(folder, trust=trust)
    elif weights is not None:
        network = build(model, **parse_settings(set))
        load_(network, weights)
    else:
        raise ValueError(f"{model!r} is no run, no .safetensors file, and --weights is not given: nothing to score")
    if data is None:
        raise ValueError("--data is not given: which test set? (flatbit list data)")
    test = datasets.load(data, data_dir).test_batches(device=device)
    metrics = evaluate(network.to(device), test)
    table = Table("top-1 %", "top-5 %", "loss", "images", "levels used / allowed (weights)", title=f"{model} on {data}")
    levels = [counts for name, counts in metrics.proof.levels.items() if name.endswith("weight_quantizer")]
    used = ", ".join(sorted({f"{counts.used}/{counts.allowed}" for counts in levels})) or "float"
    table.add_row(f"{metrics.top1:.2f}", f"{metrics.top5:.2f}", f"{metrics.loss:.4f}", f"{metrics.num_samples:,}", used)
    table.caption = str(metrics.convention)
    show(table, metrics.as_dict(), json)


COMMANDS.add("eval", eval_)
