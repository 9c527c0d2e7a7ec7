"""Crossed: one paper's grid, another's descent, a third's averaging, and the float net as teacher."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.policy import FLOAT_BITS, Policy
from ..quant.presets import policy
from ..train.objective import Distillation
from ..train.schedules import Cosine
from ..train.sharpness import Sharpness
from . import RECIPES, check_choice
from .float_net import float_stage
from .saq import Flatness
from .sqwa import averaged_stages

KEEPS_ITS_STEP = ("uniq", "saq", "lsq", "sqwa", "sqwa-all")


def crossed(
    *,
    name: str = "crossed",
    model: str = "preresnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "saq-cifar",
    float_epochs: int | None = None,
    weights: int = 2,
    activations: int = 2,
    grid: str = "uniq",
    sharpness: Flatness = "saq",
    rho: float = 0.1,
    averaging: Literal["sqwa", "none"] = "sqwa",
    teacher: str = "float",
    temperature: float = 4.0,
    teacher_weight: float = 0.9,
    begin: Literal["float", "2-bit"] = "float",
    epochs: int = 200,
    lr: float = 0.01,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    retrain_epochs: int = 40,
    retrain_lr: float = 1e-2,
    retrain_lowest: float = 1e-4,
    num_captures: int = 7,
    tune_epochs: int = 4,
) -> Recipe:
    """UNIQ's grid, SAQ's descent, SQWA's averaging and distillation from the float net: no paper has tried it.

    Stages: ``float``; ``2-bit`` if asked for; ``quantized`` (sharpness, distillation, cosine); then
    ``retrain``, ``average``, ``requantized`` and ``fine-tuned`` as SQWA, with the learned steps of
    weights kept while nets are captured. Each part can be left out, for ablation; defaults of lr,
    epochs and rho are ours. First and last layer are as the grid's policy has them; of 8-bit ones the
    latent weights are averaged.

    Args:
        grid: a policy: uniq, saq, lsq; sqwa leaves activations to PACT. Without averaging any other too.
        sharpness, rho: of the ``quantized`` stage; ``none`` for plain SGD.
        averaging: ``none`` ends with the ``quantized`` stage.
        teacher: of all stages that train: an earlier stage, or the path of a run or file; ``none`` for labels alone.
        begin: what is quantized first: the ``float`` net or, for a 1-bit net, a ``2-bit`` one that started from it.
        retrain_epochs, retrain_lr, retrain_lowest, num_captures, tune_epochs: of the averaging (``sqwa``).

    Raises:
        ValueError: a grid that is not known to keep its step, with averaging; a 2-bit start of more bits.
    """
    check_choice("averaging", averaging, ("sqwa", "none"))
    check_choice("begin", begin, ("float", "2-bit"))
    check_choice("sharpness", sharpness, ("none", "sam", "asam", "saq", "asaq"))
    if averaging == "sqwa" and grid not in KEEPS_ITS_STEP:
        raise ValueError(
            f"grid={grid!r} with averaging='sqwa': captures must share one grid: "
            f"take {', '.join(KEEPS_ITS_STEP)}, or averaging=none"
        )
    if begin == "2-bit" and 1 not in (weights, activations):
        raise ValueError(f"begin='2-bit' with W{weights}/A{activations}: it is the start of 1-bit nets: begin=float")
    common: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "schedule": Cosine(),
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "sharpness": None if sharpness == "none" else Sharpness(method=sharpness, rho=rho),
        "distillation": None
        if teacher == "none"
        else Distillation(teacher=teacher, temperature=temperature, weight=teacher_weight),
    }
    stages = [float_stage(float_schedule, float_epochs)]
    if begin == "2-bit":
        two = _rules(grid, 2 if weights < FLOAT_BITS else weights, 2 if activations < FLOAT_BITS else activations)
        stages.append(Stage(name="2-bit", policy=two, start="float", **common))
    rules = _rules(grid, weights, activations)
    stages.append(Stage(name="quantized", policy=rules, start=stages[-1].name, **common))
    if averaging == "sqwa":
        stages += averaged_stages(
            rules,
            "quantized",
            epochs=retrain_epochs,
            lr=retrain_lr,
            lowest=retrain_lowest,
            num_captures=num_captures,
            tune_epochs=tune_epochs,
            batch_size=batch_size,
            distillation=common["distillation"],
        )
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=tuple(stages))


def _rules(grid: str, weights: int, activations: int) -> Policy:
    """A policy; SQWA's, which has no activations, with PACT's."""
    method = "pact" if grid.startswith("sqwa") and activations < FLOAT_BITS else None
    return policy(grid, weights=weights, activations=activations, activation_method=method)


RECIPES.add("crossed", crossed)
RECIPES.add(
    "crossed-preresnet20-cifar100",
    partial(crossed, name="crossed-preresnet20-cifar100", data="cifar100", model_arguments={"variant": "saq"}),
)
_digits = partial(crossed, model="preresnet8", data="digits", float_schedule="digits", epochs=20, batch_size=64)
RECIPES.add("crossed-preresnet8-digits", partial(_digits, name="crossed-preresnet8-digits"))
