"""What every verb prints with: progress lines on standard error, one result on standard output."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import torch
import typer
from rich.console import Console, RenderableType

WIDE = 150


def usable(device: str) -> str:
    """The device, where a tensor can be put on it. Raises ValueError."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # an assertion is how torch says it has no CUDA
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {device}: {reason}: take cpu, or the name of a device that is here") from error
    return device


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.", callback=usable)]
Seed = Annotated[int, typer.Option(min=0, help="Of initialisation, order and augmentation.")]
DataName = Annotated[str, typer.Option("--data", help="A data set of `flatbit list data`, or package.module:function.")]
DataDir = Annotated[str | None, typer.Option(help="The folder that holds the data set's files.")]
DataArguments = Annotated[
    list[str], typer.Option("--data-arg", help="An argument of the data set, NAME=VALUE, as mean=[0.5,0.5,0.5].")
]
SkipBad = Annotated[
    bool, typer.Option(help="Leave out files that cannot be read, count and list them; else the first one is an error.")
]
WeightBits = Annotated[int, typer.Option("-w", "--weights-bits", help="Bits of weights, 1 to 8; 32 is float.")]
ActivationBits = Annotated[
    int, typer.Option("-a", "--activation-bits", help="Bits of activations, 1 to 8; 32 is float.")
]


def say(line: str) -> None:
    """One line of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def show(result: RenderableType, value: Any, as_json: bool) -> None:
    """The verb's one result on standard output: ``result`` for people, or ``value`` as JSON."""
    if as_json:
        print(json.dumps(value, indent=1))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    console.print(result)


def data_arguments(settings: list[str], skip_bad: bool) -> dict[str, Any]:
    """The arguments of the data set, from ``--data-arg`` and ``--skip-bad``."""
    return parse_settings(settings, "--data-arg") | ({"skip_bad": True} if skip_bad else {})


def parse_names(pairs: list[str]) -> dict[str, str]:
    """``["layer1=stage1"]`` as a mapping of names."""
    return {str(old): str(new) for old, new in parse_settings(pairs, "--rename", "OLD=NEW").items()}


def parse_settings(
    settings: list[str], option: str = "--set", form: str = "NAME=VALUE, such as weights=2"
) -> dict[str, Any]:
    """``["weights=2", "model=resnet20"]`` as keyword arguments: JSON where it is, else text."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} {setting!r}: expected {form}")
        try:
            parsed[name] = json.loads(text)
        except json.JSONDecodeError:
            parsed[name] = text
    return parsed
