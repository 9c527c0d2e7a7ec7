"""UNIQ: fine-tune from the float net with a cosine; 1 bit from the 2-bit net, with warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from ..quant.presets import policy
from ..train.recipe import Recipe, Stage
from ..train.schedule import Cosine
from . import RECIPES, check_choice
from .float_net import FloatSchedule, float_stage

WARMUP_LR = 0.001


def uniq(
    *,
    name: str = "uniq",
    model: str = "preresnet32",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: FloatSchedule = "uniq-cifar",
    float_epochs: int | None = None,
    weights: int = 2,
    activations: int = 2,
    epochs: int = 350,
    batch_size: int = 128,
    weight_decay: float | None = None,
    lr: float | None = None,
    optimizer: Literal["sgd", "adam"] | None = None,
    warmup: int = 5,
    start: float | Literal["optimal", "lsq"] = "optimal",
    one_bit_start: Literal["2-bit", "float"] = "2-bit",
    granularity: Literal["tensor", "channel"] = "tensor",
    gradient_scale: bool = True,
) -> Recipe:
    """UNIQ at any bits (section 4; spec of the CIFAR-100 runs is the default).

    2 bits and more: SGD 0.9, lr 0.01, cosine to 0 over all epochs, no decay on steps, from the float
    net. 1 bit: Adam, lr 0.001 for 5 epochs, then 0.004 with a cosine over the rest, decay 0 (the
    authors' code asserts it; the paper prints 5e-4), from the trained 2-bit net with new steps;
    ``optimizer="sgd"`` is the paper's other column, lr 0.001 then 0.01, decay 5e-4.

    Args:
        start: of the steps: Table 5's ``optimal``, ``lsq``, 0.1 or 0.2.
        warmup: epochs at lr 0.001 before the main rate, 1 bit only; 0 for none (Table 6).
        one_bit_start: what the 1-bit net starts from.
        weight_decay: None for the paper's: 5e-4, and 0 with Adam at 1 bit.
        optimizer, lr: of the last stage; a 2-bit stage before it keeps its own.
        granularity: one weight step per output ``channel`` in the paper's ImageNet ResNets, but for the edges.
    """
    check_choice("one_bit_start", one_bit_start, ("2-bit", "float"))
    check_choice("granularity", granularity, ("tensor", "channel"))
    options = {"start": start, "gradient_scale": gradient_scale}

    def stage(w: int, a: int, begin: str) -> Stage:
        binary = 1 in (w, a)
        last = (w, a) == (weights, activations)
        method = (optimizer if last else None) or ("adam" if binary else "sgd")
        main = lr if lr is not None and last else 0.004 if method == "adam" else 0.01
        return Stage(
            name=f"uniq-w{w}a{a}",
            epochs=epochs,
            policy=policy(
                "uniq" if granularity == "tensor" else "uniq-imagenet",
                weights=w,
                activations=a,
                weight_options=options,
                activation_options=options,
            ),
            start=begin,
            optimizer=method,
            lr=main,
            schedule=Cosine(warmup=warmup, warmup_factor=WARMUP_LR / main) if binary else Cosine(),
            weight_decay=(0.0 if binary and method == "adam" else 5e-4) if weight_decay is None else weight_decay,
            batch_size=batch_size,
        )

    stages = [float_stage(float_schedule, float_epochs)]
    if 1 in (weights, activations) and one_bit_start == "2-bit":
        stages.append(stage(max(weights, 2), max(activations, 2), "float"))
    stages.append(stage(weights, activations, stages[-1].name))
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=tuple(stages))


RECIPES.add("uniq", uniq)
_digits = partial(uniq, model="preresnet8", data="digits", float_schedule="digits", epochs=20, batch_size=64)
RECIPES.add("uniq-preresnet8-digits", partial(_digits, name="uniq-preresnet8-digits"))
