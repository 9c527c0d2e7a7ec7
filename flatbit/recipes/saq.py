"""SAQ: learned clips on normalised weights, trained for flat minima of the quantized weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.policy import FLOAT_BITS, Policy
from ..quant.presets import policy
from ..train.schedules import Cosine, Steps
from ..train.sharpness import Sharpness
from . import RECIPES, check_choice
from .float_net import float_stage

Flatness = Literal["none", "sam", "asam", "saq", "asaq"]
RHO = {
    "preresnet20": {2: 0.4, 3: 0.7, 4: 0.9},
    "mobilenet_v2_cifar": {2: 0.5, 3: 0.7, 4: 0.9},
    "resnet18": {2: 0.15, 3: 0.15, 4: 0.3},
    "mobilenet_v2": {4: 0.3},
}
"""rho of SAQ by network and bits: Tables A (CIFAR-100) and B (ImageNet)."""


def saq(
    *,
    name: str = "saq",
    model: str = "preresnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "saq-cifar",
    float_epochs: int | None = None,
    weights: int = 4,
    activations: int = 4,
    method: Literal["saq", "pact"] = "saq",
    sharpness: Flatness = "saq",
    rho: float | None = None,
    eta: float = 0.01,
    perturb: Literal["authors", "weights_only"] = "authors",
    batchnorm: Literal["freeze", "update"] = "freeze",
    shard: int | None = None,
    nesterov: bool = False,
    schedule: Literal["steps", "cosine"] = "steps",
    epochs: int = 200,
    lr: float = 0.01,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
) -> Recipe:
    """SAQ at one bit-width (CIFAR-100's settings are the default; Tables 1 to 3 and C to E).

    SGD 0.9 from the float net, lr 0.01 x0.1 at 80 and 120 of 200 epochs, batch 128, decay 1e-4, clips
    included. ``sharpness="none"`` is the tables' SGD, with ``method="pact"`` their PACT: DoReFa's
    weights, clips that start at 1, edges as SAQ's. Mixed precision (SAMQ) is not here yet: it comes
    with the search of bits.

    Args:
        method: the quantizers.
        sharpness: ``none``, or ``sam``, ``asam``, ``saq``, ``asaq``.
        rho: radius; None for the paper's, which prints SAQ's only (``RHO``). Its search grid is .02,
            .05, .1, .15, ... 1.
        eta, perturb, batchnorm, shard: of ``Sharpness``. The authors' code has batchnorm=update.
        nesterov: off in the paper, on in the authors' scripts.
        schedule: ``steps``, at two and three fifths of the epochs, or ``cosine`` to 0 (ImageNet).

    Raises:
        ValueError: no rho given where the paper prints none.
    """
    check_choice("schedule", schedule, ("steps", "cosine"))
    check_choice("sharpness", sharpness, ("none", "sam", "asam", "saq", "asaq"))
    flat = None
    if sharpness != "none":
        radius = rho if rho is not None else _printed_rho(sharpness, model, weights)
        flat = Sharpness(method=sharpness, rho=radius, eta=eta, perturb=perturb, batchnorm=batchnorm, shard=shard)
    stage = Stage(
        name=f"{method}-w{weights}a{activations}",
        epochs=epochs,
        policy=_rules(method, weights, activations),
        start="float",
        lr=lr,
        nesterov=nesterov,
        schedule=Cosine() if schedule == "cosine" else Steps((round(0.4 * epochs), round(0.6 * epochs))),
        weight_decay=weight_decay,
        batch_size=batch_size,
        sharpness=flat,
    )
    stages = (float_stage(float_schedule, float_epochs), stage)
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=stages)


def _printed_rho(sharpness: Flatness, model: str, bits: int) -> float:
    """SAQ's rho of a network at its bits. Raises ValueError where the paper prints none."""
    printed = RHO.get(model, {}) if sharpness == "saq" else {}
    if bits not in printed:
        known = f", only at {', '.join(map(str, printed))}" if printed else ""
        raise ValueError(
            f"the paper prints no rho for {sharpness} of {model} at {bits} bits{known}: "
            "give rho=, from .02, .05, .1, .15, ... 1"
        )
    return printed[bits]


def _rules(method: Literal["saq", "pact"], weights: int, activations: int) -> Policy:
    """SAQ's convention; PACT's quantizers in it, as the paper compares them."""
    check_choice("method", method, ("saq", "pact"))
    rules = policy("saq", weights=weights, activations=activations)
    if method == "saq":
        return rules
    options = {"clip": 1.0} if activations < FLOAT_BITS else {}
    base = replace(rules.base, method="dorefa", activation_method="pact", activation_options=options)
    return replace(rules, name="pact", base=base)


RECIPES.add("saq", saq)
_cifar = partial(saq, data="cifar100")
RECIPES.add(
    "saq-preresnet20-cifar100",
    partial(_cifar, name="saq-preresnet20-cifar100", model="preresnet20", model_arguments={"variant": "saq"}),
)
RECIPES.add(
    "saq-mobilenet_v2-cifar100",
    partial(_cifar, name="saq-mobilenet_v2-cifar100", model="mobilenet_v2_cifar", model_arguments={"variant": "saq"}),
)
_imagenet = partial(
    saq, data="imagenet", float_schedule="imagenet", schedule="cosine", lr=0.02, batch_size=512, shard=128
)
RECIPES.add("saq-resnet18-imagenet", partial(_imagenet, name="saq-resnet18-imagenet", model="resnet18", epochs=90))
RECIPES.add(
    "saq-mobilenet_v2-imagenet",
    partial(_imagenet, name="saq-mobilenet_v2-imagenet", model="mobilenet_v2", epochs=150, weight_decay=4e-5),
)
_digits = partial(saq, model="preresnet8", model_arguments={"variant": "saq"}, data="digits", float_schedule="digits")
RECIPES.add("saq-preresnet8-digits", partial(_digits, name="saq-preresnet8-digits", epochs=20, batch_size=64, rho=0.4))
