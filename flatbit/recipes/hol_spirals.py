"""HOL's spirals: how width and depth bear quantized weights and quantized activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.policy import FLOAT_BITS, Rule
from ..quant.presets import policy
from ..train.schedules import Cosine
from . import RECIPES, check_choice
from .float_net import float_stage
from .hol import Quantized, pairs

READS_SUMS = tuple(Rule(layer, {"input_bits": FLOAT_BITS}, optional=True) for layer in ("hidden.[1-9]*.linear", "last"))
"""What reads residual sums that are not quantized again (Figure 3) counts as reading float."""


def hol_spirals(
    *,
    name: str = "hol-fcdnn-spirals",
    model: str = "fcdnn",
    data: str = "spirals",
    model_arguments: Mapping[str, Any] | None = None,
    width: int = 128,
    depth: int = 4,
    block: Literal["plain", "residual"] = "plain",
    residual: Literal["float", "quantized"] = "float",
    float_schedule: str = "spirals",
    float_epochs: int | None = None,
    weights: int = 2,
    activations: int = 2,
    quantized: Quantized | Sequence[Quantized] = "each",
    epochs: int = 100,
    lr: float = 2e-3,
    batch_size: int = 500,
) -> Recipe:
    """HOL's fully connected nets on two spirals (section 3; Figures 1 to 3, 9 and 10).

    All weight matrices quantized, PACT at each ReLU's output, the two coordinates and the logits float.
    The paper does not say how it trains: here Adam at batch 500, from 2e-3 with a cosine and without
    decay, the float net 300 epochs, each quantized one 100 (a tenth of the rate leaves these about 10
    points lower: ``records``).

    Args:
        width, depth: of hidden layers; weight matrices, the first and the last among them.
        block: ``residual`` is Figure 3's net, ``h + phi(W h)`` halved.
        residual: ``quantized`` quantizes those sums again (Figure 10).
        quantized: ``weights`` alone, ``activations`` alone, ``both``, ``each`` of the three, or a list.
        model_arguments: further arguments of the model; they win over width, depth and block.
    """
    check_choice("residual", residual, ("float", "quantized"))
    if residual == "quantized" and block != "residual":
        raise ValueError(f"residual='quantized' with block={block!r}: a plain net has no sums: block=residual")
    stages = [float_stage(float_schedule, float_epochs)]
    for w, a in pairs(weights, activations, quantized):
        rules = policy("hol-synthetic", weights=w, activations=a)
        if residual == "quantized":
            rules = rules.override("*.residual", here=True)
        elif block == "residual":
            rules = replace(rules, rules=(*rules.rules, *READS_SUMS))
        stages.append(
            Stage(
                name=f"hol-w{w}a{a}",
                epochs=epochs,
                policy=rules,
                start="float",
                optimizer="adam",
                lr=lr,
                schedule=Cosine(),
                batch_size=batch_size,
            )
        )
    arguments = {"width": width, "depth": depth, "block": block} | dict(model_arguments or {})
    return Recipe(name=name, model=model, model_arguments=arguments, data=data, stages=tuple(stages))


RECIPES.add("hol-fcdnn-spirals", hol_spirals)
