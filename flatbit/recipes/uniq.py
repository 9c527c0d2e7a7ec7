"""UNIQ: fine-tune from the float net with a cosine; 1 bit from the 2-bit net, with warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.policy import Policy
from ..quant.presets import policy
from ..train.schedules import Cosine
from . import RECIPES, check_choice
from .float_net import float_stage

WARMUP_LR = 0.001
IMAGENET_DECAY = {4: 1e-4, 3: 0.5e-4, 2: 0.25e-4, 1: 0.0}


def uniq(
    *,
    name: str = "uniq",
    model: str = "preresnet32",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "uniq-cifar",
    float_epochs: int | None = None,
    weights: int = 2,
    activations: int = 2,
    method: Literal["uniq", "lsq"] = "uniq",
    epochs: int = 350,
    batch_size: int = 128,
    weight_decay: float | Mapping[int, float] | None = None,
    lr: float | None = None,
    optimizer: Literal["sgd", "adam"] | None = None,
    warmup: int = 5,
    start: float | Literal["optimal", "lsq"] = "optimal",
    one_bit_start: Literal["2-bit", "float"] = "2-bit",
    granularity: Literal["tensor", "channel"] = "tensor",
    gradient_scale: bool = True,
) -> Recipe:
    """UNIQ at any bits (section 4; the CIFAR-100 runs' settings are the default; Tables 2 to 6).

    2 bits and more: SGD 0.9, lr 0.01, cosine to 0 over all epochs, no decay on steps, from the float
    net. 1 bit: Adam, lr 0.001 for 5 epochs, then 0.004 with a cosine over the rest, decay 0 (the
    authors' code asserts it; the paper prints 5e-4), from the trained 2-bit net with new steps;
    ``optimizer="sgd"`` is the paper's other column, lr 0.001 then 0.01, decay 5e-4.

    Args:
        method: ``lsq`` is Table 4's re-run of LSQ in this setting.
        start: of the steps: Table 5's ``optimal``, ``lsq``, 0.1 or 0.2.
        warmup: epochs at lr 0.001 before the main rate, 1 bit only; 0 for none (Table 6).
        one_bit_start: what the 1-bit net starts from.
        weight_decay: a number, or one for each number of bits (ImageNet: 1e-4, .5e-4, .25e-4 and 0 for
            4, 3, 2 and 1); None for CIFAR's: 5e-4, and 0 with Adam at 1 bit.
        optimizer, lr: of the last stage; a 2-bit stage before it keeps its own.
        granularity: one weight step per output ``channel`` in the paper's ImageNet ResNets, but for the edges.
    """
    check_choice("one_bit_start", one_bit_start, ("2-bit", "float"))
    check_choice("granularity", granularity, ("tensor", "channel"))
    check_choice("method", method, ("uniq", "lsq"))
    rules = partial(_rules, method, granularity, start, gradient_scale)

    def stage(w: int, a: int, begin: str) -> Stage:
        binary = 1 in (w, a)
        last = (w, a) == (weights, activations)
        descent = (optimizer if last else None) or ("adam" if binary else "sgd")
        main = lr if lr is not None and last else 0.004 if descent == "adam" else 0.01
        return Stage(
            name=f"{method}-w{w}a{a}",
            epochs=epochs,
            policy=rules(w, a),
            start=begin,
            optimizer=descent,
            lr=main,
            schedule=Cosine(warmup=warmup, warmup_factor=WARMUP_LR / main) if binary else Cosine(),
            weight_decay=_decay(weight_decay, min(w, a), 0.0 if binary and descent == "adam" else 5e-4),
            batch_size=batch_size,
        )

    stages = [float_stage(float_schedule, float_epochs)]
    if 1 in (weights, activations) and one_bit_start == "2-bit":
        stages.append(stage(max(weights, 2), max(activations, 2), "float"))
    stages.append(stage(weights, activations, stages[-1].name))
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=tuple(stages))


def _rules(
    method: Literal["uniq", "lsq"],
    granularity: Literal["tensor", "channel"],
    start: float | str,
    gradient_scale: bool,
    weights: int,
    activations: int,
) -> Policy:
    """UNIQ's convention; LSQ with the same edges at 8 bits."""
    if method == "lsq":
        options: dict[str, Any] = {"gradient_scale": gradient_scale}
    else:
        options = {"start": start, "gradient_scale": gradient_scale}
    return policy(
        "uniq-imagenet" if (method, granularity) == ("uniq", "channel") else method,
        weights=weights,
        activations=activations,
        granularity=granularity if method == "lsq" else None,
        weight_options=options,
        activation_options=options,
    )


def _decay(given: float | Mapping[int, float] | None, bits: int, usual: float) -> float:
    """The weight decay at so many bits: the one given, the nearest of those given by bits, or the usual one."""
    if isinstance(given, Mapping):
        by_bits = {int(number): decay for number, decay in given.items()}  # JSON's keys are text
        return by_bits[min(max(bits, min(by_bits)), max(by_bits))]
    return usual if given is None else given


RECIPES.add("uniq", uniq)
RECIPES.add("uniq-preresnet32-cifar100", partial(uniq, name="uniq-preresnet32-cifar100", data="cifar100"))
_imagenet = partial(
    uniq, data="imagenet", float_schedule="imagenet", epochs=90, batch_size=256, weight_decay=IMAGENET_DECAY
)
RECIPES.add(
    "uniq-preresnet18-imagenet",
    partial(_imagenet, name="uniq-preresnet18-imagenet", model="preresnet18", granularity="channel"),
)
RECIPES.add(
    "uniq-preresnet34-imagenet",
    partial(_imagenet, name="uniq-preresnet34-imagenet", model="preresnet34", granularity="channel"),
)
RECIPES.add("uniq-mobilenet_v2-imagenet", partial(_imagenet, name="uniq-mobilenet_v2-imagenet", model="mobilenet_v2"))
_digits = partial(uniq, model="preresnet8", data="digits", float_schedule="digits", epochs=20, batch_size=64)
RECIPES.add("uniq-preresnet8-digits", partial(_digits, name="uniq-preresnet8-digits"))
