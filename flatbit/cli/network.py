"""Where a verb's network comes from: a run's folder, a file, or a name with weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from ..engine.run import read_run
from ..files import load, load_any_
from ..models import build
from .console import say

Weights = Annotated[
    Path | None,
    typer.Option(
        help="Float weights: a .safetensors file, or a .pth of anybody's (read without running it; wrappers, "
        "prefixes and other layer names are mapped by shape and order, or refused)."
    ),
]
Rename = Annotated[
    list[str], typer.Option(help="A layer's name in the --weights file and in the model, OLD=NEW; may be repeated.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A network, and the data set that its run used (None where there is no run)."""

    network: nn.Module
    data: str | None = None
    data_arguments: dict[str, Any] | None = None


def open_network(
    model: str,
    settings: dict[str, Any],
    *,
    weights: Path | None = None,
    rename: dict[str, str] | None = None,
    stage: str | None = None,
    trust: bool = False,
) -> Opened:
    """The network that a verb's first argument names.

    Raises ValueError for what is none, and for ``settings``, ``weights`` or ``stage`` that have no
    meaning for it.
    """
    path = Path(model)
    is_file = path.suffix == ".safetensors"
    if (is_file or path.is_dir()) and (settings or weights):
        raise ValueError(
            f"{model} says how it is built and holds its weights: --set and --weights have no meaning for it"
        )
    if stage is not None and not path.is_dir():
        raise ValueError(f"{model} is no run's folder: --stage has no meaning for it")
    if path.is_dir():
        return _from_run(path, stage, trust)
    if is_file:
        return Opened(network=load(path, trust=trust))
    if "/" in model and path.suffix and not path.exists():
        raise ValueError(f"no such file or folder: {model}")
    network = build(model, **settings)
    if weights is not None:
        say(load_any_(network, weights, rename=rename))
    return Opened(network=network)


def _from_run(folder: Path, stage: str | None, trust: bool) -> Opened:
    record = read_run(folder).record
    finished = ", ".join(record["stages"]) or "none"
    if stage is not None and stage not in record["stages"]:
        raise ValueError(f"{folder} has no finished stage {stage!r}: it has {finished}")
    file = folder / "stages" / f"{stage}.safetensors" if stage else folder / "model.safetensors"
    if not file.is_file():
        raise ValueError(f"{folder} is not finished (its stages so far: {finished}): --resume it, or name a --stage")
    recipe = record["recipe"]
    return Opened(network=load(file, trust=trust), data=recipe["data"], data_arguments=recipe["data_arguments"])
