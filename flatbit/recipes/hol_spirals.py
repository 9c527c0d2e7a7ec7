"""HOL's spirals: how width and depth bear quantized weights and quantized activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..quant.policy import Rule
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..train.optimizers import Adam
from ..train.schedules import Cosine
from . import RECIPES, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages
from .hol import Quantized, pairs

FLOAT_SUMS = (
    Rule("*.residual", {"placement": "input"}),
    *(Rule(layer, {"input_bits": FLOAT_BITS}, optional=True) for layer in ("hidden.[1-9]*.linear", "last")),
)
"""Residual sums stay float (Figure 3), and what reads them counts as reading float; a net without sums is refused."""

LOOKS = 10
"""So often a stage looks at the test set: its points are several times those of an epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How each quantized net is retrained: Adam with a cosine and without decay. The paper does not say.

    Attributes:
        epochs: after a tenth of these 128-4 reads 59 at W2A2, after all of them 78, or 62 from one seed of three.
        lr, batch_size: a tenth of this rate leaves the nets about 10 points lower.
    """

    epochs: int = 1000
    lr: float = 2e-3
    batch_size: int = 500


def spiral_stages(
    *,
    weights: int = 2,
    activations: int = 2,
    quantized: Quantized | tuple[Quantized, ...] = "each",
    sums: Literal["float", "quantized"] | None = None,
    pretraining: Pretraining | None = Pretraining(schedule="spirals"),
    training: Descent = Descent(),
) -> Stages:
    """HOL's fully connected nets on two spirals (section 3; Figures 1 to 3, 9 and 10).

    All weight matrices quantized, PACT at each ReLU's output, the two coordinates and the logits float.
    Width, depth (hidden layers; weight matrices, the first and the last among them) and the kind of block are
    the model's: ``--model-arg width=256``. The paper does not say how it trains: here Adam at batch 500, from
    2e-3 with a cosine, the float net 300 epochs, each quantized one 1000; ten looks at the test set, whose 130,000
    points take longer than an epoch.

    Args:
        quantized: ``weights`` alone, ``activations`` alone, ``both``, ``each`` of the three, or a list.
        sums: of residual nets, Figure 3's ``h + phi(W h)`` halved: left ``float``, or ``quantized`` again (Figure
            10); None for plain nets, which have none.
        pretraining: of the float net; None measures the one that the run is given.
        training: of each quantized net.
    """
    stages = list(float_stages(pretraining))
    begin = From.stage(stages[-1].name)
    for w, a in pairs(weights, activations, quantized):
        chosen = policy("hol-synthetic", weights=w, activations=a)
        if a < FLOAT_BITS and sums == "quantized":
            chosen = chosen.override("*.residual", placement="output")
        elif a < FLOAT_BITS and sums == "float":
            chosen = replace(chosen, rules=(*chosen.rules, *FLOAT_SUMS))
        stages.append(
            stage_of(
                name=f"hol-w{w}a{a}",
                epochs=training.epochs,
                policy=chosen,
                start=begin,
                optimizer=Adam(),
                lr=training.lr,
                schedule=Cosine(),
                batch_size=training.batch_size,
                evaluate_every=max(1, training.epochs // LOOKS),
            )
        )
    return tuple(stages)


_PLAIN = {"width": 128, "depth": 4}
RECIPES.add(
    "hol-fcdnn-spirals",
    Registration(stages=spiral_stages, model="fcdnn", model_arguments=_PLAIN, data="spirals"),
)
RECIPES.add(
    "hol-fcdnn_residual-spirals",
    Registration(
        stages=spiral_stages,
        model="fcdnn",
        model_arguments=_PLAIN | {"block": "residual"},
        data="spirals",
        settings={"sums": "float"},
    ),
)
