"""flatbit quantize: a model of yours, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...engine import TensorBoard, plan, run
from ...engine.recipe import Recipe
from ...engine.record import Run
from ...engine.splits import Splits
from ...files import load
from ...quant.coverage import coverage_of
from ...quant.spec import FLOAT_BITS
from ...recipes import Network
from ...recipes.finetune import may_begin_at_two_bits
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
    Overwrite,
    PolicyName,
    Rename,
    Resume,
    Seed,
    SkipBad,
    Tensorboard,
    WeightBits,
    begin_anew,
    data_arguments,
    parse_overrides,
    parse_settings,
    parsed,
    say,
    show,
)
from ..network import given_checkpoint
from ..wording import options_named

HELD_OUT = 2000
OPTIONS = {
    "weights": "-w", "activations": "-a", "reestimate": "--no-reestimate", "limit_test": "--limit-test",
    **{name: f"--{name.replace('_', '-')}" for name in (
        "epochs", "lr", "batch_size", "weight_decay", "optimizer", "schedule", "placement", "first_last_bits",
        "image_bits", "granularity", "activation_method",
    )},
}  # fmt: skip
OPTIONS |= {f"training.{name}": option for name, option in OPTIONS.items()}
OPTIONS |= {f"layers.{name}": option for name, option in OPTIONS.items() if "." not in name}
"""What the library calls arguments, and recipes settings, by the verb's option."""
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
    weight_decay: Annotated[float | None, typer.Option(help="Of the weights. Default: 1e-4.")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="A name of `flatbit list optimizers`, as adam. Default: sgd.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="A name of `flatbit list schedules`, or as JSON with its settings, "
            '{"kind": "multistep", "milestones": [3]}. Default: cosine.'
        ),
    ] = None,
    activation_method: Annotated[
        str | None, typer.Option(help="Quantize activations with another method, as lsq. Default: the policy's.")
    ] = None,
    granularity: Annotated[
        str | None, typer.Option(help="One weight step per tensor or per output channel. Default: the paper's.")
    ] = None,
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
    override: Annotated[
        list[str],
        typer.Option(
            help="What changes for layers, by name or wildcard (@first, @last, @shortcut by role): "
            "'layer4.*: weights=4, activations=8'; may be repeated, a later one wins."
        ),
    ] = [],  # noqa: B006
    strict: Annotated[
        bool, typer.Option(help="Refuse a model with layers that cannot be quantized, or leave those float.")
    ] = True,
    distill: Annotated[
        str, typer.Option(help="Learn from the float net's answers: mixed with the labels, or only (without labels).")
    ] = "none",
    reestimate: Annotated[
        bool,
        typer.Option(
            "--reestimate/--no-reestimate",
            help="Estimate the batch-norm statistics of the calibrated net anew, and keep them where held-out training "
            "images score no less with them; or leave them alone.",
        ),
    ] = True,
    limit_test: Annotated[
        int | None, typer.Option(help="Score so many test images alone, drawn at random; said with the result.")
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: Tensorboard = False,
    json: Json = False,
) -> None:
    """Quantize a network of yours: measure it in float, calibrate, fine-tune, and prove the result.

    Leaves a run's folder, runs/quantize/MODEL-POLICY-wWaA. 2,000 training images, a fifth at most, are held out:
    epochs are scored on them, and where the fine-tuned net scores less than the calibrated one, that one is kept. The
    test set is read once per net. 1 bit starts from 2 bits, fine-tuned first, where the method has both (`flatbit run
    finetune` has `training.begin` for others).

    `flatbit quantize mypackage.nets:small --checkpoint small.safetensors --data digits --policy uniq -w 2 -a 2`

    `flatbit quantize torchvision/resnet18 --data image_folder --data-dir DIR --override 'layer4.*: weights=4'`
    """
    if distill not in DISTILL:
        raise ValueError(f"--distill {distill}: expected {', '.join(DISTILL)}")
    if weight_bits == activation_bits == FLOAT_BITS:
        raise ValueError(f"-w {FLOAT_BITS} -a {FLOAT_BITS} leaves all in float: give fewer bits with -w, -a or both")
    start = given_checkpoint(checkpoint, rename, checkpoint_key, as_built)
    trained = {"lr": lr, "weight_decay": weight_decay, "optimizer": optimizer, "schedule": parsed(schedule)}
    layers = {
        "placement": placement, "first": first, "last": last, "first_last_bits": first_last_bits,
        "image_bits": image_bits, "leave_float": leave_float or None, "strict": None if strict else False,
        "activation_method": activation_method, "granularity": granularity, "override": parse_overrides(override),
    }  # fmt: skip
    given = {
        "policy": policy, "weights": weight_bits, "activations": activation_bits, "training.epochs": epochs,
        "training.batch_size": batch_size, "reestimate": None if reestimate else False,
        **{f"training.{name}": value for name, value in trained.items()},
        **{f"layers.{name}": value for name, value in layers.items()},
    }  # fmt: skip
    if not epochs:
        _check_nothing_trains(trained | {"distill": None if distill == "none" else distill})
    if (share := DISTILL[distill]) is not None:
        given |= {"distillation.teacher": "stage:float", "distillation.weight": share}
    given = {place: value for place, value in given.items() if value not in (None, {})}
    network = Network(model=model, arguments=parse_settings(model_arg, "--model-arg"))
    label = model.replace(":", ".").replace("/", ".")
    out = out or Path("runs/quantize") / f"{label}-{policy}-w{weight_bits}a{activation_bits}"
    with options_named(OPTIONS):
        made = replace(
            _finetuned(given, network, data), data_arguments=data_arguments(data_arg, skip_bad),
            splits=Splits(held_out=HELD_OUT, limit_test=limit_test),
        )  # fmt: skip
        planned = plan(made, seed=seed, device=device, data_dir=data_dir, checkpoint=start)
        begin_anew([out], resume=resume, overwrite=overwrite)
        done = run(planned, out, resume=resume, callbacks=[TensorBoard()] if tensorboard else [], say=say)
    if checkpoint is None:
        say(f"no --checkpoint: {model} was quantized with the weights it is built with")
    _show(done, f"{model} on {data}", data_dir, json)


def _check_nothing_trains(options: Mapping[str, Any]) -> None:
    """Raise ValueError for options of training, by name, where there is none."""
    for name, value in options.items():
        if value is not None:
            option = f"--{name.replace('_', '-')} {value}"
            raise ValueError(f"{option} cannot act: --epochs 0 trains nothing: leave it out")


def _finetuned(given: dict[str, Any], network: Network, data: str | None) -> Recipe:
    """The recipe behind the verb: from the calibrated net on, at 1 bit from one of 2 bits where the method has both."""
    try:
        if not given["training.epochs"]:
            return recipe_of("finetune", given, network, data)
        made = recipe_of("finetune", given | {"training.begin": "calibrated"}, network, data)
        wanted = made.stages[-1].policy
        if wanted is None or not may_begin_at_two_bits(wanted):
            return made
        return recipe_of("finetune", given | {"training.begin": "2-bit"}, network, data)
    except ValueError as error:
        said = str(error).removeprefix("recipe 'finetune': ")
        raise ValueError(
            said.replace("--set activations=32 leaves", "give --activation-method NAME, or -a 32, which leaves")
        ) from error


def _show(done: Run, title: str, data_dir: str | None, json: bool) -> None:
    """The result, with its report."""
    rows, splits = summarize([done]), done.record.recipe.splits
    say(str(coverage_of(load(done.folder / "model.safetensors"))))
    if splits is not None and splits.limit_test is not None:
        title += f", {splits.limit_test} of its test images alone"
    show(table_of(rows, title), as_json(rows), json)
    page = write_page([done], done.folder / "report.html", data_root=data_dir)
    say(f"model: {done.folder / 'model.safetensors'}  report: {page}")


COMMANDS.add("quantize", quantize_network)
