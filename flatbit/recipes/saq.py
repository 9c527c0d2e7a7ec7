"""SAQ: learned clips on normalised weights, trained for flat minima of the quantized weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..quant.policy import Policy
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..search.assignment_file import assigned, read_assignment
from ..train.optimizers import SGD
from ..train.schedules import Cosine, MultiStep
from ..train.sharpness import Sharpness
from . import RECIPES, Printed, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages

RHO = {
    "preresnet20": {2: 0.4, 3: 0.7, 4: 0.9},
    "mobilenet_v2_cifar": {2: 0.5, 3: 0.7, 4: 0.9},
    "resnet18": {2: 0.15, 3: 0.15, 4: 0.3},
    "mobilenet_v2": {4: 0.3},
}
"""rho of SAQ by network and bits: Tables A (CIFAR-100) and B (ImageNet)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How the quantized net is trained; CIFAR-100's settings by default.

    Attributes:
        epochs, lr, weight_decay, batch_size: of SGD 0.9.
        schedule: ``steps``, at two and three fifths of the epochs, or ``cosine`` to 0 (ImageNet).
        nesterov: off in the paper, on in the authors' scripts.
    """

    epochs: int = 200
    lr: float = 0.01
    weight_decay: float = 1e-4
    batch_size: int = 128
    schedule: Literal["steps", "cosine"] = "steps"
    nesterov: bool = False


def saq_stages(
    *,
    weights: int = 4,
    activations: int = 4,
    method: Literal["saq", "pact"] = "saq",
    assignment: str | None = None,
    pretraining: Pretraining | None = Pretraining(schedule="saq-cifar"),
    sharpness: Sharpness | None = None,
    training: Descent = Descent(),
) -> Stages:
    """SAQ at one bit-width (CIFAR-100's settings are the default; Tables 1 to 3 and C to E).

    SGD 0.9 from the float net, lr 0.01 x0.1 at 80 and 120 of 200 epochs, batch 128, decay 1e-4, clips
    included. ``sharpness=none`` is the tables' SGD, with ``method=pact`` their PACT: DoReFa's
    weights, clips that start at 1, first and last layer as SAQ's. Mixed precision (SAMQ): ``flatbit search --method
    samq`` finds the bits, ``assignment`` takes them.

    Args:
        method: the quantizers.
        assignment: a file of bits per layer, as ``flatbit search`` writes: SAMQ's nets (Tables 1, 2 and 4).
        pretraining: of the float net; None measures the one that the run is given.
        sharpness: saq in the recipes that are registered; rho is the paper's, which prints SAQ's alone (``RHO``);
            its search grid is .02, .05, .1, .15, ... 1. The authors' code has batchnorm=update. None for plain SGD.
        training: of the quantized net.
    """
    epochs = training.epochs
    steps = MultiStep((round(0.4 * epochs), round(0.6 * epochs)))
    stage = stage_of(
        name=f"{method}-w{weights}a{activations}",
        epochs=epochs,
        policy=_policy(method, weights, activations, assignment),
        start=From.stage(float_stages(pretraining)[-1].name),
        optimizer=SGD(nesterov=training.nesterov),
        lr=training.lr,
        schedule=Cosine() if training.schedule == "cosine" else steps,
        weight_decay=training.weight_decay,
        batch_size=training.batch_size,
        sharpness=sharpness,
    )
    return (*float_stages(pretraining), stage)


def _policy(method: Literal["saq", "pact"], weights: int, activations: int, assignment: str | None) -> Policy:
    """SAQ's convention; PACT's quantizers in it, as the paper compares them; the bits of a file."""
    made = policy("saq", weights=weights, activations=activations)
    if assignment is not None:
        made = assigned(made, read_assignment(Path(assignment)))
    if method == "saq":
        return made
    options = {"clip": 1.0} if activations < FLOAT_BITS else {}
    base = replace(made.base, method="dorefa", activation_method="pact", activation_options=options)
    return replace(made, name="pact", base=base)


def _registered(
    model: str, data: str, settings: dict[str, Any], arguments: dict[str, Any] | None = None
) -> Registration:
    """SAQ's descent on a network, with the rho that the paper prints for it."""
    only = {"sharpness.method": "saq"}
    return Registration(
        stages=saq_stages,
        model=model,
        model_arguments=arguments or {},
        data=data,
        settings=only | settings,
        printed={"sharpness.rho": Printed(values=RHO[model], only=only)},
    )


_IMAGENET = {
    "pretraining.schedule": "imagenet", "training.schedule": "cosine", "training.lr": 0.02,
    "training.batch_size": 512, "sharpness.shard": 128,
}  # fmt: skip
_SAQ = {"variant": "saq"}
RECIPES.add("saq", _registered("preresnet20", "digits", {}))
RECIPES.add("saq-preresnet20-cifar100", _registered("preresnet20", "cifar100", {}, _SAQ))
RECIPES.add("saq-mobilenet_v2-cifar100", _registered("mobilenet_v2_cifar", "cifar100", {}, _SAQ))
RECIPES.add("saq-resnet18-imagenet", _registered("resnet18", "imagenet", _IMAGENET | {"training.epochs": 90}))
RECIPES.add(
    "saq-mobilenet_v2-imagenet",
    _registered("mobilenet_v2", "imagenet", _IMAGENET | {"training.epochs": 150, "training.weight_decay": 4e-5}),
)
RECIPES.add(
    "saq-preresnet8-digits",
    Registration(
        stages=saq_stages,
        model="preresnet8",
        model_arguments=_SAQ,
        data="digits",
        settings={
            "pretraining.schedule": "digits", "sharpness.method": "saq", "sharpness.rho": 0.4,
            "training.epochs": 20, "training.batch_size": 64,
        },
    ),
)  # fmt: skip
