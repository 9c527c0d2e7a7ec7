"""flatbit eval: score a model file or a run, with its convention and proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ... import data as datasets
from ...engine.start import TEST_BATCH, matched
from ...metrics.evaluation import evaluate
from .. import COMMANDS
from ..console import (
    DataArguments,
    DataDir,
    Device,
    Json,
    SkipBad,
    data_arguments,
    parse_names,
    parse_settings,
    say,
    show,
)
from ..network import Rename, Weights, open_network


def eval_(
    model: Annotated[
        str, typer.Argument(help="A run's folder, a .safetensors file, or a model to load --weights into.")
    ],
    data: Annotated[str | None, typer.Option(help="The data set. Default: the run's own.")] = None,
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    weights: Weights = None,
    rename: Rename = [],  # noqa: B006
    skip_bad: SkipBad = False,
    stage: Annotated[str | None, typer.Option(help="A stage of the run. Default: its last.")] = None,
    set: Annotated[list[str], typer.Option(help="An argument of the model, NAME=VALUE.")] = [],  # noqa: B006
    trust: Annotated[bool, typer.Option(help="Import what the run or file names as package.module:function.")] = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Score a model on a test set: top-1, top-5, loss, levels in use, convention.

    `flatbit eval runs/quickstart/seed0 --stage uniq-w2a2`
    """
    if weights is None and not Path(model).exists() and Path(model).suffix != ".safetensors":
        raise ValueError(f"{model!r} is no run, no .safetensors file, and --weights is not given: nothing to score")
    opened = open_network(
        model, parse_settings(set), weights=weights, rename=parse_names(rename), stage=stage, trust=trust
    )
    if data is None and opened.data is not None and ":" in opened.data and not trust:
        raise ValueError(
            f"{model} wants to import its data from {opened.data!r}: --trust it, or say --data {opened.data}"
        )
    name = data or opened.data
    if name is None:
        raise ValueError("--data is not given: which test set? (flatbit list data)")
    arguments = (opened.data_arguments if name == opened.data else None) or {}
    loaded = matched(datasets.load(name, data_dir, **arguments | data_arguments(data_arg, skip_bad)), opened.network)
    test = loaded.test_batches(TEST_BATCH[loaded.task], device=device)
    metrics = evaluate(opened.network.to(device), test)
    for path, reason in loaded.left_out.items():
        say(f"left out: {path}: {reason}")
    scores = {"top-1 %": metrics.top1, "top-5 %": metrics.top5}
    if metrics.miou is not None:
        scores = {"mIoU %": metrics.miou, "pixels right %": metrics.top1}
    table = Table(*scores, "loss", "images", "levels used / allowed (weights)", title=f"{model} on {name}")
    levels = [counts for name, counts in metrics.proof.levels.items() if name.endswith("weight_quantizer")]
    used = ", ".join(sorted({f"{counts.used}/{counts.allowed}" for counts in levels})) or "float"
    shown = [f"{score:.2f}" for score in scores.values()]
    table.add_row(*shown, f"{metrics.loss:.4f}", f"{metrics.num_samples:,}", used)
    table.caption = str(metrics.convention)
    show(table, metrics.as_dict(), json)


COMMANDS.add("eval", eval_)
