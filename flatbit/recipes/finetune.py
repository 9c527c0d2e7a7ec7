"""Fine-tune any model of any data set under any policy: what ``flatbit quantize`` runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.policy import FLOAT_BITS
from ..quant.presets import policy
from ..train.objective import Distillation
from ..train.schedules import Cosine
from . import RECIPES, check_choice

STATISTICS_BATCHES = 50
TEACHER_WEIGHT = {"mixed": 0.9, "only": 1.0}


def finetune(
    *,
    model: str,
    data: str = "digits",
    data_arguments: Mapping[str, Any] | None = None,
    model_arguments: Mapping[str, Any] | None = None,
    method: str = "uniq",
    weights: int = 4,
    activations: int = 4,
    epochs: int = 5,
    lr: float = 0.01,
    batch_size: int = 128,
    placement: Literal["input", "output"] | None = None,
    first: str | None = None,
    last: str | None = None,
    leave_float: Sequence[str] = (),
    strict: bool = True,
    distill: Literal["none", "mixed", "only"] = "none",
) -> Recipe:
    """Measure a model in float, calibrate it, fine-tune it with SGD and a cosine to 0.

    Nobody's published recipe: a sound default for a network that has one. Stages: ``float`` (measured,
    not trained), ``calibrated`` (steps from data, batch-norm statistics re-estimated), ``fine-tuned``.

    Args:
        distill: learn from the float net's answers: ``mixed`` with the labels (nine parts to one), or
            ``only``, which needs no labels; temperature 4. ``none`` learns from labels alone.
    """
    check_choice("distill", distill, ("none", *TEACHER_WEIGHT))
    rules = policy(method, weights=weights, activations=activations, placement=placement).edges(first=first, last=last)
    for pattern in leave_float:
        rules = rules.override(pattern, weights=FLOAT_BITS, activations=FLOAT_BITS)
    common = {"policy": rules, "start": "float", "lr": lr, "batch_size": batch_size, "strict": strict}
    stages = [
        Stage(name="float", epochs=0, lr=lr),
        Stage(name="calibrated", epochs=0, reestimate_batches=STATISTICS_BATCHES, **common),
    ]
    if epochs:
        taught = Distillation(teacher="float", weight=TEACHER_WEIGHT[distill]) if distill != "none" else None
        stages.append(
            Stage(name="fine-tuned", epochs=epochs, schedule=Cosine(), weight_decay=1e-4, distillation=taught, **common)
        )
    return Recipe(
        name="finetune",
        model=model,
        model_arguments=dict(model_arguments or {}),
        data=data,
        data_arguments=dict(data_arguments or {}),
        stages=tuple(stages),
    )


RECIPES.add("finetune", finetune)
