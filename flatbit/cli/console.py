"""What verbs share: options, each with one meaning; progress on standard error, one result on standard output."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console, RenderableType

from ..engine.discarding import discard
from ..progress import is_quiet

WIDE = 150
SHORT_NUMBER = re.compile(r"-?(\d+\.|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)  # .1 and 5., which JSON does not know


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
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="How updates are run: eager, graphs (CUDA), compiled, compiled-graphs, or auto: try, check, take the "
        "fastest. Default: auto on CUDA, else eager. With --seeds also stacked, all seeds as one net; default: the "
        "faster, tried. What was taken stands in run.json; --resume keeps it.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the network (torch.compile), a minute or more at first: --engine compiled in short."
    ),
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Of products in training: float32, tf32 (CUDA), bf16. Steps, statistics, losses and tests stay float32.",
    ),
]
Recompute = Annotated[
    bool,
    typer.Option(
        "--recompute", help="Compute quantized tensors again in the backward pass: less memory, the same numbers."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        help="Where the result goes: a folder for a run, a file, .png or .svg, for a figure.", show_default=False
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with what is in --out, exactly where it was cut off; finished stages are kept."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove the run that is in --out first, and start anew; other files stay.")
]
Smoke = Annotated[bool, typer.Option("--smoke", help="Two updates per stage: does it run at all.")]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write each epoch's numbers for TensorBoard too, to RUN/tensorboard.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of initialisation, order and augmentation.")]
Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        metavar="N|FIRST:END|A,B",
        help="Several seeds, for mean and spread: 3 or 0:3 is 0, 1, 2; 0,3,4 is these.",
    ),
]
DataName = Annotated[
    str | None, typer.Option("--data", help="A data set of `flatbit list data`, or package.module:function.")
]
DataDir = Annotated[str | None, typer.Option(help="The folder that holds the data set's files.")]
DataArguments = Annotated[
    list[str], typer.Option("--data-arg", help="An argument of the data set, NAME=VALUE, as mean=[0.5,0.5,0.5].")
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Leave out files that cannot be read, count and list them; else the first one is an error."
    ),
]
ModelArguments = Annotated[
    list[str], typer.Option("--model-arg", help="An argument of the model, NAME=VALUE, as width=2; may be repeated.")
]
PolicyName = Annotated[str | None, typer.Option("--policy", help="A policy of `flatbit list policies`.")]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Float weights: a .safetensors file, or a third party's .pth (read without running it; wrappers, "
        "prefixes and other layer names are mapped by shape and order, or refused).",
    ),
]
Rename = Annotated[
    list[str],
    typer.Option(
        help="A layer's or tensor's name in the --checkpoint and in the model, OLD=NEW; OLD= leaves it out; may be "
        "repeated."
    ),
]
CheckpointKey = Annotated[
    str | None,
    typer.Option(
        help="Which weights of the --checkpoint, where it holds several: the key that leads to them, as ema or "
        "model.state_dict."
    ),
]
AsBuilt = Annotated[
    list[str],
    typer.Option(
        help="A layer of the model that stays as it is built, as a head of another size than the --checkpoint's; may "
        "be repeated."
    ),
]
StageName = Annotated[
    str | None, typer.Option("--stage", help="One stage of the run. Default: the last; for `flatbit doctor` every one.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Import what a run or file names as package.module:function.")]
WeightBits = Annotated[int, typer.Option("-w", "--weight-bits", help="Bits of weights, 1 to 8; 32 is float.")]
ActivationBits = Annotated[
    int, typer.Option("-a", "--activation-bits", help="Bits of activations, 1 to 8; 32 is float.")
]
FirstLastBits = Annotated[
    int | None,
    typer.Option(
        help="Bits of the first and last layer, and of what else the paper keeps in float. Default: the paper's. With "
        "--image-bits 8 too, every product has integer operands."
    ),
]
ImageBits = Annotated[
    int | None, typer.Option(help="Bits of the image that the first layer reads. Default: the paper's.")
]


def say(line: str) -> None:
    """One line of progress, on standard error; none with ``--quiet``."""
    if not is_quiet():
        print(line, file=sys.stderr, flush=True)


def begin_anew(folders: Sequence[Path], *, resume: bool, overwrite: bool) -> None:
    """With ``--overwrite``, remove the runs in these folders. Raises ValueError where ``--resume`` is given too."""
    if resume and overwrite:
        raise ValueError("--resume with --overwrite cannot act: one goes on with the run, the other removes it")
    for folder in folders if overwrite else ():
        discard(folder)


def show(result: RenderableType, value: Any, as_json: bool) -> None:
    """The verb's one result on standard output: ``result`` for people, text as it is, or ``value`` as JSON."""
    if as_json:
        print(json.dumps(value, indent=1))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    console.print(result, soft_wrap=isinstance(result, str))


def data_arguments(settings: list[str], skip_bad: bool) -> dict[str, Any]:
    """The arguments of the data set, from ``--data-arg`` and ``--skip-bad``."""
    return parse_settings(settings, "--data-arg") | ({"skip_bad": True} if skip_bad else {})


def parse_names(pairs: list[str]) -> dict[str, str]:
    """``["layer1=stage1"]`` as a mapping of names. Raises ValueError."""
    return _by_name(pairs, "--rename", "OLD=NEW")


def parse_settings(settings: list[str], option: str = "--set") -> dict[str, Any]:
    """``["weights=2", "grid=uniq"]`` by name: JSON where it is, else text. Raises ValueError."""
    return {name: _value(text) for name, text in _by_name(settings, option, "NAME=VALUE, such as weights=2").items()}


def parsed(text: str | None) -> Any:
    """The value that a text is: JSON where it is, else text; None for None."""
    return None if text is None else _value(text)


def parse_overrides(overrides: list[str]) -> dict[str, dict[str, Any]]:
    """``["layer4.*: weights=4, placement=output"]`` as changes by pattern. Raises ValueError."""
    made: dict[str, dict[str, Any]] = {}
    for override in overrides:
        pattern, colon, changes = override.partition(":")
        if not colon or not pattern.strip() or not changes.strip():
            raise ValueError(f"--override {override!r}: expected LAYERS: NAME=VALUE, as 'layer4.*: weights=4'")
        if (pattern := pattern.strip()) in made:
            raise ValueError(f"--override {pattern!r} comes twice: say all that changes in one")
        made[pattern] = parse_settings([change.strip() for change in changes.split(",")], f"--override '{pattern}:'")
    return made


def parse_seeds(text: str) -> Sequence[int]:
    """``3`` and ``0:3`` are 0, 1, 2; ``0,3,4`` is these. Raises ValueError."""
    first, colon, end = text.partition(":")
    try:
        if "," in text:
            seeds: Sequence[int] = [int(part) for part in text.split(",")]
        else:
            seeds = range(int(first) if colon else 0, int(end if colon else text))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or ("," in text and len(set(seeds)) < len(seeds)):
        raise ValueError(
            f"--seeds {text}: expected at least 1, each once, from 0 on: a number as 3, a range FIRST:END as 0:3, or a "
            "list as 0,3,4"
        )
    return seeds


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return float(text) if SHORT_NUMBER.fullmatch(text) else text


def _by_name(settings: list[str], option: str, form: str) -> dict[str, str]:
    """The texts behind each name. Raises ValueError where there is no name, or one comes twice."""
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} {setting!r}: expected {form}")
        if name in found:
            raise ValueError(f"{option} {name} comes twice, {found[name]!r} and {text!r}: one of them cannot act")
        found[name] = text
    return found
