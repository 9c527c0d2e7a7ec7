"""HOL: weights and activations quantized apart and together; smoother by a Lipschitz term and a cyclic rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.policy import FLOAT_BITS
from ..quant.presets import policy
from ..train.schedules import Cyclic, Steps
from . import RECIPES, check_choice
from .float_net import float_stage

Descent = Literal["plain", "lipschitz", "clr", "lipschitz+clr"]
Quantized = Literal["each", "weights", "activations", "both"]
CYCLES, PARTS = 5, 8
LAST_MINIMUM = (CYCLES - 1) * PARTS + PARTS // 2 + 1  # parts up to the end of the last one at the bottom
LIPSCHITZ = 1e-4


def hol(
    *,
    name: str = "hol",
    model: str = "resnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "hol-cifar",
    float_epochs: int | None = None,
    weights: int = 2,
    activations: int = 2,
    quantized: Quantized | Sequence[Quantized] = "each",
    convention: Literal["hol", "hol-imagenet"] = "hol",
    descent: Descent = "plain",
    lipschitz: float = LIPSCHITZ,
    epochs: int = 100,
    lr: float = 0.01,
    milestones: Sequence[float] = (0.5, 0.8),
    weight_decay: float = 0.0,
    batch_size: int = 128,
    clr_epochs: int = 40,
    clr_lr: float = 1e-3,
) -> Recipe:
    """Retraining of HOL, and its two smoothers (CIFAR-10's settings are the default; Tables 4 and 5, Figures 6 to 8).

    SGD 0.9, 100 epochs, lr 0.01 x0.1 at 50 and 80, batch 128, no decay; edges float, PACT at each
    ReLU's output and on residual tensors. Any width, depth and kind of block: by ``model`` and
    ``model_arguments``.

    Args:
        quantized: ``weights`` alone, ``activations`` alone, ``both``, or ``each`` of the three, from one
            float net; or a list of these.
        convention: ``hol-imagenet`` keeps residual tensors at 8 bits and has four-level weights.
        descent: ``plain``; ``lipschitz`` adds the Lipschitz term times ``lipschitz``; ``clr`` fine-tunes
            with a cyclic rate after retraining (a stage ``NAME-clr``); ``lipschitz+clr`` both, the
            term in both stages.
        milestones: where the rate falls, as shares of the epochs.
        clr_epochs, clr_lr: five cycles of eight equal parts, from ``clr_lr`` to a hundredth of it and
            back; the stage ends where the last minimum does, at epoch 37 of 40.
    """
    places = tuple(round(share * epochs) for share in milestones)
    stages = [float_stage(float_schedule, float_epochs)]
    for w, a in pairs(weights, activations, quantized):
        retrain = Stage(
            name=f"hol-w{w}a{a}",
            epochs=epochs,
            policy=policy(convention, weights=w, activations=a),
            start="float",
            lr=lr,
            schedule=Steps(places),
            weight_decay=weight_decay,
            batch_size=batch_size,
        )
        stages += smoothed(retrain, descent, lipschitz=lipschitz, clr_epochs=clr_epochs, clr_lr=clr_lr)
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=tuple(stages))


def pairs(weights: int, activations: int, quantized: Quantized | Sequence[Quantized]) -> list[tuple[int, int]]:
    """The bits (W, A) of each net to make; what is float already makes none.

    Raises ValueError for an unknown choice, or where nothing is quantized.
    """
    made = {
        "weights": [(weights, FLOAT_BITS)],
        "activations": [(FLOAT_BITS, activations)],
        "both": [(weights, activations)],
    }
    made["each"] = [pair for pairs in made.values() for pair in pairs]
    choices = [quantized] if isinstance(quantized, str) else list(quantized)
    for choice in choices:
        check_choice("quantized", choice, ("each", "weights", "activations", "both"))
    chosen = dict.fromkeys(pair for choice in choices for pair in made[choice])
    found = [pair for pair in chosen if pair != (FLOAT_BITS, FLOAT_BITS)]
    if not found:
        raise ValueError(f"quantized={quantized!r} with W{weights}/A{activations}: nothing to quantize")
    return found


def smoothed(retrain: Stage, descent: Descent, *, lipschitz: float, clr_epochs: int, clr_lr: float) -> list[Stage]:
    """A retraining stage with the Lipschitz term, and the cyclic fine-tuning after it, where ``descent`` has them."""
    check_choice("descent", descent, ("plain", "lipschitz", "clr", "lipschitz+clr"))
    if "lipschitz" in descent:
        retrain = replace(retrain, lipschitz=lipschitz)
    if "clr" not in descent:
        return [retrain]
    ends = max(1, LAST_MINIMUM * clr_epochs // (PARTS * CYCLES))
    curve = Cyclic(0.01, half=PARTS // 2, part=ends / LAST_MINIMUM)
    return [
        retrain,
        replace(retrain, name=f"{retrain.name}-clr", start=retrain.name, epochs=ends, lr=clr_lr, schedule=curve),
    ]


RECIPES.add("hol", hol)
RECIPES.add(
    "hol-resnet20-cifar10", partial(hol, name="hol-resnet20-cifar10", data="cifar10", model_arguments={"shortcut": "B"})
)
RECIPES.add(
    "hol-preresnet34-imagenet",
    partial(
        hol,
        name="hol-preresnet34-imagenet",
        model="preresnet34",
        data="imagenet",
        float_schedule="imagenet",
        quantized="both",
        convention="hol-imagenet",
        epochs=90,
        lr=0.04,
        milestones=(1 / 3, 2 / 3),
        weight_decay=1e-4,
        batch_size=512,
    ),
)
_digits = partial(hol, model="preresnet8", model_arguments={"variant": "hol"}, data="digits", float_schedule="digits")
RECIPES.add(
    "hol-preresnet8-digits", partial(_digits, name="hol-preresnet8-digits", epochs=20, batch_size=64, clr_epochs=8)
)
