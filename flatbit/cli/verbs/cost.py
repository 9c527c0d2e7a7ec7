"""flatbit cost: what a model costs, layer by layer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from ...quant.assignment import assignment as bits_of
from ...quant.convert import quantize_
from ...quant.cost import Cost, cost
from ...quant.presets import policy as policy_of
from ...quant.spec import FLOAT_BITS
from ...quant.table import has_quantized_layers
from ...registry import import_object
from ...search.assignment_file import write_assignment
from .. import COMMANDS
from ..console import (
    ActivationBits,
    FirstLastBits,
    ImageBits,
    Json,
    ModelArguments,
    PolicyName,
    StageName,
    Trust,
    WeightBits,
    parse_settings,
    say,
    show,
)
from ..network import open_network


def cost_of(
    model: Annotated[
        str,
        typer.Argument(help="A model of `flatbit list models`, package.module:function, a file, or a run's folder."),
    ],
    model_arg: ModelArguments = [],  # noqa: B006
    stage: StageName = None,
    policy: PolicyName = None,
    weight_bits: WeightBits = FLOAT_BITS,
    activation_bits: ActivationBits = FLOAT_BITS,
    first_last_bits: FirstLastBits = None,
    image_bits: ImageBits = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Of one image: channels,height,width. Default: 3,32,32.", show_default=False)
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            help="In place of --input-shape, for tokens or several inputs: package.module:function that returns what "
            "the model is called with: a tensor, a tuple, or a mapping by name."
        ),
    ] = None,
    assignment: Annotated[
        Path | None,
        typer.Option(help="Also write the bits per layer to this TOML file, as recipes take it (DQ's learned bits)."),
    ] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Count bit-operations, multiply-adds, parameters and bytes; nothing is trained.

    `flatbit cost runs/dq --assignment bits.toml`

    `flatbit cost preresnet20 --model-arg variant=saq --model-arg num_classes=100 --policy saq -w 4 -a 4`
    """
    if policy is not None and weight_bits == activation_bits == FLOAT_BITS:
        raise ValueError(f"--policy {policy} without bits: give -w, -a or both")
    if assignment is not None and assignment.exists():
        raise ValueError(f"--assignment {assignment}: the file is there already: give another, or remove it")
    network = open_network(model, parse_settings(model_arg, "--model-arg"), stage=stage, trust=trust).network
    if (weight_bits, activation_bits) != (FLOAT_BITS, FLOAT_BITS):
        if has_quantized_layers(network):
            raise ValueError(f"{model} is quantized already: -w and -a cannot act on it: leave them out")
        made = policy_of(
            policy or "uniq",
            weights=weight_bits,
            activations=activation_bits,
            first_last_bits=first_last_bits,
            image_bits=image_bits,
        )
        quantize_(network, made)
    elif first_last_bits is not None or image_bits is not None:
        raise ValueError("--first-last-bits and --image-bits without bits cannot act: give -w, -a or both")
    counted = _counted(network, input_shape, example)
    totals = {name: getattr(counted, name) for name in ("bitops", "macs", "params", "size_bytes")}
    if assignment is not None:
        write_assignment(
            bits_of(network), assignment, note=f"bits of {model}: {counted.bitops / 1e6:,.3f} M bit-operations"
        )
        say(f"written: {assignment}")
    show(str(counted), totals | asdict(counted) | {"activation_bitops": counted.activation_bitops}, json)


def _counted(network: nn.Module, input_shape: str | None, example: str | None) -> Cost:
    if example is None:
        try:
            return cost(network, _shape(input_shape or "3,32,32"))
        except ValueError as error:
            raise ValueError(f"{error}: --input-shape C,H,W says another") from error
    if input_shape is not None:
        raise ValueError("--example and --input-shape both say the input: leave one out")
    make = import_object(example)
    if not callable(make):
        raise ValueError(f"--example {example} is {type(make).__name__}: expected a function that returns the input")
    try:
        return cost(network, example=make())
    except ValueError as error:
        raise ValueError(f"--example {example}: {error}") from error


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--input-shape {text!r}: expected whole numbers with commas, such as 3,32,32") from None


COMMANDS.add("cost", cost_of)
