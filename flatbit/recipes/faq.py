"""FAQ: fine-tune after quantization, from a float net, with power-of-two steps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from ..quant.presets import policy
from ..train.recipe import Recipe, Stage
from ..train.schedule import Constant, Exponential, Schedule, Steps
from . import RECIPES, check_choice
from .float_net import FloatSchedule, float_stage

PAPER_EPOCHS, PAPER_DECAY, SCRATCH_DECAY = 110, 0.936, 0.901
FIRST_LR, LAST_LR = 0.0015, 1e-6
DOUBLINGS = (55 / 165, 150 / 165, 160 / 165)


def faq(
    *,
    name: str = "faq",
    model: str = "resnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: FloatSchedule = "faq-cifar",
    float_epochs: int | None = None,
    weights: int = 4,
    activations: int = 4,
    epochs: int | None = None,
    schedule: Literal["exponential", "steps"] | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    growth: Literal["none", "doubling"] = "none",
    weight_decay: float | None = None,
    pretrained: bool = True,
    calibrate: bool = True,
    clip_is_half_width: bool = False,
    placement: Literal["input", "output"] = "output",
) -> Recipe:
    """FAQ at 8 bits (1 epoch at lr 1e-4) or below (110 epochs of exponential decay from 0.0015).

    8 bits: batch and decay of the float stage. Below 8 bits: SGD 0.9, batch 256, decay 1e-4 (ResNet-18:
    5e-5), lr x 0.936 per epoch; other lengths keep the first and the last rate. ``schedule="steps"``:
    lr 1e-3 x0.1 at 30, 60 and 90 of 110. ``growth="doubling"``: 165 epochs, the virtual batch doubling
    at epochs 55, 150 and 160 (Table 2). ``pretrained=False``: from scratch, lr 0.1 x 0.901 per epoch,
    or by steps x0.1 at 30, 60 and 85, and 1e-6 from 95 on. ``calibrate=False``: activations' ranges not
    from data.

    Whatever is given (lr, batch_size, weight_decay, schedule, epochs) replaces the paper's.
    """
    check_choice("schedule", schedule, (None, "exponential", "steps"))
    check_choice("growth", growth, ("none", "doubling"))
    base = float_stage(float_schedule, float_epochs)
    eight = min(weights, activations) >= 8 and pretrained and schedule is None
    length = epochs if epochs is not None else 1 if eight else 165 if growth == "doubling" else PAPER_EPOCHS
    rate, curve = (lr or 1e-4, Constant()) if eight else _descent(schedule or "exponential", length, pretrained, lr)
    rules = policy(
        "faq",
        weights=weights,
        activations=activations,
        placement=placement,
        weight_options={"clip_is_half_width": clip_is_half_width},
        activation_options={"calibrate": calibrate},
    )
    stage = Stage(
        name=f"faq-w{weights}a{activations}",
        epochs=length,
        policy=rules,
        start="float" if pretrained else None,
        lr=rate,
        schedule=curve,
        weight_decay=weight_decay if weight_decay is not None else base.weight_decay if eight else 1e-4,
        batch_size=batch_size if batch_size is not None else base.batch_size if eight else 256,
        growth=_doublings(length) if growth == "doubling" else (),
    )
    stages = (base, stage) if pretrained else (stage,)
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=stages)


def _doublings(epochs: int) -> tuple[tuple[int, int], ...]:
    """At which epoch the virtual batch is 2, 4 and 8 mini-batches. Raises ValueError for too few epochs."""
    places = [round(share * epochs) for share in DOUBLINGS]
    if sorted({0, *places, epochs}) != [0, *places, epochs]:
        raise ValueError(f"growth='doubling' with epochs={epochs}: the three doublings fall together: take 33 or more")
    return tuple((place, 2 ** (index + 1)) for index, place in enumerate(places))


def _descent(
    schedule: Literal["exponential", "steps"], epochs: int, pretrained: bool, lr: float | None
) -> tuple[float, Schedule]:
    """First rate and schedule of a run below 8 bits."""
    if schedule == "steps":
        milestones = (30, 60, 90) if pretrained else (30, 60, 85, 95, 95)  # from scratch it falls to 1e-6 at 95
        places = tuple(round(m * epochs / PAPER_EPOCHS) for m in milestones)
        return lr or (1e-3 if pretrained else 0.1), Steps(places)
    first = lr or (FIRST_LR if pretrained else 0.1)
    if epochs == PAPER_EPOCHS:
        return first, Exponential(PAPER_DECAY if pretrained else SCRATCH_DECAY)
    return first, Exponential.reaching(LAST_LR / first, epochs)


RECIPES.add("faq", faq)
_digits = partial(faq, model="preresnet8", data="digits", float_schedule="digits", epochs=20, lr=0.01, batch_size=64)
RECIPES.add("faq-preresnet8-digits", partial(_digits, name="faq-preresnet8-digits"))
