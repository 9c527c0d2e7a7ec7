"""flatbit cost: what a model costs, layer by layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ...quant.convert import quantize_
from ...quant.cost import cost
from ...quant.presets import policy as policy_of
from ...quant.spec import FLOAT_BITS
from ...quant.table import has_quantized_layers
from .. import COMMANDS
from ..console import (
    ActivationBits,
    Json,
    ModelArguments,
    PolicyName,
    StageName,
    Trust,
    WeightBits,
    parse_settings,
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
    input_shape: Annotated[str, typer.Option(help="Of one image: channels,height,width.")] = "3,32,32",
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Count bit-operations, multiply-adds, parameters and bytes; nothing is trained.

    `flatbit cost preresnet20 --model-arg variant=saq --model-arg num_classes=100 --policy saq -w 4 -a 4`
    """
    if policy is not None and weight_bits == activation_bits == FLOAT_BITS:
        raise ValueError(f"--policy {policy} without bits: give -w, -a or both")
    network = open_network(model, parse_settings(model_arg, "--model-arg"), stage=stage, trust=trust).network
    if (weight_bits, activation_bits) != (FLOAT_BITS, FLOAT_BITS):
        if has_quantized_layers(network):
            raise ValueError(f"{model} is quantized already: -w and -a cannot act on it: leave them out")
        quantize_(network, policy_of(policy or "uniq", weights=weight_bits, activations=activation_bits))
    try:
        counted = cost(network, _shape(input_shape))
    except ValueError as error:
        raise ValueError(f"{error}: --input-shape C,H,W says another") from error
    totals = {name: getattr(counted, name) for name in ("bitops", "macs", "params", "size_bytes")}
    show(str(counted), totals | {"layers": [asdict(layer) for layer in counted.layers]}, json)


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--input-shape {text!r}: expected whole numbers with commas, such as 3,32,32") from None


COMMANDS.add("cost", cost_of)
