"""flatbit cost: what a model costs, layer by layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ...quant.convert import quantize_
from ...quant.cost import cost
from ...quant.policy import FLOAT_BITS
from ...quant.presets import policy
from .. import COMMANDS
from ..console import (
    ActivationBits,
    Json,
    WeightBits,
    parse_settings,
    show,
)
from ..network import open_network


def cost_(
    model: Annotated[
        str,
        typer.Argument(help="A model of `flatbit list models`, package.module:function, a file, or a run's folder."),
    ],
    input_shape: Annotated[str, typer.Option(help="Of one image: channels,height,width.")] = "3,32,32",
    method: Annotated[str | None, typer.Option(help="A policy of `flatbit list policies`. Default: uniq.")] = None,
    weights_bits: WeightBits = FLOAT_BITS,
    activation_bits: ActivationBits = FLOAT_BITS,
    set: Annotated[list[str], typer.Option(help="An argument of the model, NAME=VALUE.")] = [],  # noqa: B006
    stage: Annotated[str | None, typer.Option(help="A stage of a run. Default: its last.")] = None,
    trust: Annotated[bool, typer.Option(help="Import what a file names as package.module:function.")] = False,
    json: Json = False,
) -> None:
    """Count bit-operations, multiply-adds, parameters and bytes; nothing is trained.

    `flatbit cost preresnet20 --set variant=saq --set num_classes=100 --method saq -w 4 -a 4`
    """
    if method is not None and weights_bits == activation_bits == FLOAT_BITS:
        raise ValueError(f"--method {method} without bits: give -w, -a or both")
    network = open_network(model, parse_settings(set), stage=stage, trust=trust).network
    if (weights_bits, activation_bits) != (FLOAT_BITS, FLOAT_BITS):
        quantize_(network, policy(method or "uniq", weights=weights_bits, activations=activation_bits))
    counted = cost(network, _shape(input_shape))
    totals = {name: getattr(counted, name) for name in ("bitops", "macs", "params", "size_bytes")}
    show(str(counted), totals | {"layers": [asdict(layer) for layer in counted.layers]}, json)


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--input-shape {text!r}: expected whole numbers with commas, such as 3,32,32") from None


COMMANDS.add("cost", cost_)
