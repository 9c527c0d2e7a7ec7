"""flatbit quantize: a model of yours, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...engine.run import run
from ...files import load
from ...quant.coverage import coverage
from ...recipes import RECIPES
from ...report.page import write_page
from ...report.summary import as_json, summarize, table_of
from .. import COMMANDS
from ..console import (
    ActivationBits,
    DataArguments,
    DataDir,
    DataName,
    Device,
    Json,
    Seed,
    SkipBad,
    WeightBits,
    data_arguments,
    parse_names,
    parse_settings,
    say,
    show,
)
from ..network import Rename, Weights


def quantize(
    model: Annotated[
        str,
        typer.Argument(help="package.module:function that returns your network, or a name of `flatbit list models`."),
    ],
    weights: Weights = None,
    rename: Rename = [],  # noqa: B006
    skip_bad: SkipBad = False,
    data: DataName = "digits",
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    method: Annotated[str, typer.Option(help="A policy of `flatbit list policies`.")] = "uniq",
    weights_bits: WeightBits = 4,
    activation_bits: ActivationBits = 4,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning; 0 only calibrates.")] = 5,
    lr: Annotated[float, typer.Option(help="First learning rate, annealed to 0.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Images per update.")] = 128,
    placement: Annotated[
        str | None,
        typer.Option(
            help="Quantize activations at the layers' input, or at the activations' output. Default: the paper's."
        ),
    ] = None,
    first: Annotated[
        str | None, typer.Option(help="The layer that reads the image, where it is not the first one defined.")
    ] = None,
    last: Annotated[
        str | None, typer.Option(help="The layer that gives the logits, where it is not the last one defined.")
    ] = None,
    leave_float: Annotated[
        list[str], typer.Option("--float", help="Layers to leave in float, by name or wildcard; may be repeated.")
    ] = [],  # noqa: B006
    strict: Annotated[
        bool, typer.Option(help="Refuse a model with layers that cannot be quantized, or leave those float.")
    ] = True,
    distill: Annotated[
        str, typer.Option(help="Learn from the float net's answers: mixed with the labels, or only (without labels).")
    ] = "none",
    set: Annotated[list[str], typer.Option(help="An argument of the model, NAME=VALUE.")] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/quantize/MODEL-METHOD-wWaA.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    json: Json = False,
) -> None:
    """Quantize a network of yours: measure it in float, calibrate, fine-tune, and prove the result.

    `flatbit quantize mypackage.nets:small --weights small.safetensors --data digits --method uniq -w 2 -a 2`
    """
    made = RECIPES.get("finetune")(
        model=model, model_arguments=parse_settings(set), data=data, method=method, weights=weights_bits,
        activations=activation_bits, epochs=epochs, lr=lr, batch_size=batch_size, placement=placement, strict=strict,
        first=first, last=last, leave_float=leave_float, data_arguments=data_arguments(data_arg, skip_bad),
        distill=distill,
    )  # fmt: skip
    label = model.replace(":", ".").replace("/", ".")
    out = out or Path("runs/quantize") / f"{label}-{method}-w{weights_bits}a{activation_bits}"
    done = run(
        made, out, seed=seed, device=device, data_root=data_dir, weights=weights, rename=parse_names(rename),
        resume=resume, say=say,
    )  # fmt: skip
    rows = summarize([done])
    if weights is None:
        say(f"no --weights: {model} was quantized with the weights it is built with")
    say(str(coverage(load(out / "model.safetensors"))))
    show(table_of(rows, f"{model} on {data}"), as_json(rows), json)
    page = write_page([done], out / "report.html", data_root=data_dir)
    say(f"model: {out / 'model.safetensors'}  report: {page}")


COMMANDS.add("quantize", quantize)
