"""flatbit quantize: a model of yours, in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...engine import plan, run
from ...engine.recipe import Recipe
from ...files import load
from ...quant.coverage import coverage_of
from ...quant.spec import FLOAT_BITS
from ...recipes import Network
from ...report.page import write_page
from ...report.summary import as_json, summarize, table_of
from .. import COMMANDS
from ..choice import recipe_of
from ..console import (
    ActivationBits,
    AsBuilt,
    CheckpointFile,
    CheckpointKey,
    DataArguments,
    DataDir,
    DataName,
    Device,
    FirstLastBits,
    ImageBits,
    Json,
    ModelArguments,
    Out,
    PolicyName,
    Rename,
    Resume,
    Seed,
    SkipBad,
    WeightBits,
    data_arguments,
    parse_settings,
    say,
    show,
)
from ..network import given_checkpoint

DISTILL = {"none": None, "mixed": 0.9, "only": 1.0}


def quantize_network(
    model: Annotated[
        str,
        typer.Argument(help="package.module:function that returns your network, or a name of `flatbit list models`."),
    ],
    model_arg: ModelArguments = [],  # noqa: B006
    checkpoint: CheckpointFile = None,
    checkpoint_key: CheckpointKey = None,
    rename: Rename = [],  # noqa: B006
    as_built: AsBuilt = [],  # noqa: B006
    data: DataName = "digits",
    data_dir: DataDir = None,
    data_arg: DataArguments = [],  # noqa: B006
    skip_bad: SkipBad = False,
    policy: PolicyName = "uniq",
    weight_bits: WeightBits = 4,
    activation_bits: ActivationBits = 4,
    first_last_bits: FirstLastBits = None,
    image_bits: ImageBits = None,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning; 0 only calibrates.")] = 5,
    lr: Annotated[float | None, typer.Option(help="First learning rate, annealed to 0. Default: 0.01.")] = None,
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
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Quantize a network of yours: measure it in float, calibrate, fine-tune, and prove the result.

    Leaves a run's folder, runs/quantize/MODEL-POLICY-wWaA.

    `flatbit quantize mypackage.nets:small --checkpoint small.safetensors --data digits --policy uniq -w 2 -a 2`
    """
    if distill not in DISTILL:
        raise ValueError(f"--distill {distill}: expected {', '.join(DISTILL)}")
    if weight_bits == activation_bits == FLOAT_BITS:
        raise ValueError(f"-w {FLOAT_BITS} -a {FLOAT_BITS} leaves all in float: give fewer bits with -w, -a or both")
    if lr is not None and not epochs:
        raise ValueError(f"--lr {lr} cannot act: --epochs 0 trains nothing: leave it out")
    start = given_checkpoint(checkpoint, rename, checkpoint_key, as_built)
    given: dict[str, Any] = {
        "policy": policy, "weights": weight_bits, "activations": activation_bits, "training.epochs": epochs,
        "training.lr": lr, "training.batch_size": batch_size, "layers.placement": placement, "layers.first": first,
        "layers.last": last, "layers.first_last_bits": first_last_bits, "layers.image_bits": image_bits,
        "layers.leave_float": leave_float or None, "layers.strict": None if strict else False,
    }  # fmt: skip
    if (share := DISTILL[distill]) is not None:
        given |= {"distillation.teacher": "stage:float", "distillation.weight": share}
    given = {place: value for place, value in given.items() if value is not None}
    network = Network(model=model, arguments=parse_settings(model_arg, "--model-arg"))
    made = replace(_finetuned(given, network, data), data_arguments=data_arguments(data_arg, skip_bad))
    label = model.replace(":", ".").replace("/", ".")
    out = out or Path("runs/quantize") / f"{label}-{policy}-w{weight_bits}a{activation_bits}"
    done = run(plan(made, seed=seed, device=device, data_dir=data_dir, checkpoint=start), out, resume=resume, say=say)
    rows = summarize([done])
    if checkpoint is None:
        say(f"no --checkpoint: {model} was quantized with the weights it is built with")
    say(str(coverage_of(load(out / "model.safetensors"))))
    show(table_of(rows, f"{model} on {data}"), as_json(rows), json)
    page = write_page([done], out / "report.html", data_root=data_dir)
    say(f"model: {out / 'model.safetensors'}  report: {page}")


def _finetuned(given: dict[str, Any], network: Network, data: str | None) -> Recipe:
    """The recipe behind the verb. Raises ValueError with a setting by its option."""
    try:
        return recipe_of("finetune", given, network, data)
    except ValueError as error:
        raise ValueError(str(error).replace("--set activations=32", "-a 32")) from error


COMMANDS.add("quantize", quantize_network)
