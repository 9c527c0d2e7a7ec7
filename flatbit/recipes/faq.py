"""FAQ: fine-tune after quantization, from a float net, with power-of-two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.presets import policy
from ..train.schedules import Constant, Exponential, Schedule, Steps
from . import RECIPES, check_choice
from .float_net import FLOAT, float_stage

PAPER_EPOCHS, PAPER_DECAY, SCRATCH_DECAY = 110, 0.936, 0.901
FIRST_LR, LAST_LR = 0.0015, 1e-6
DOUBLINGS = (55 / 165, 150 / 165, 160 / 165)
RESNET18_DECAY = 5e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What the paper sets apart for one data set.

    Attributes:
        original: the float schedule, whose batch and decay 8-bit runs keep.
        eight_epochs: of an 8-bit run.
        schedule, lr, weight_decay: below 8 bits, from the float net; lr None for the schedule's own.
    """

    original: str
    eight_epochs: int
    schedule: Literal["exponential", "steps"]
    lr: float | None
    weight_decay: float


PUBLISHED = {
    "imagenet": Published(original="imagenet", eight_epochs=1, schedule="exponential", lr=None, weight_decay=1e-4),
    "cifar": Published(original="faq-cifar", eight_epochs=10, schedule="steps", lr=0.02, weight_decay=5e-4),
}


def faq(
    *,
    name: str = "faq",
    model: str = "resnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "faq-cifar",
    float_epochs: int | None = None,
    weights: int = 4,
    activations: int = 4,
    published: Literal["imagenet", "cifar"] = "imagenet",
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

    8 bits: batch and decay of the float net's training. Below 8 bits: SGD 0.9, batch 256, decay 1e-4
    (ResNet-18: 5e-5), lr x 0.936 per epoch; other lengths keep the first and the last rate.
    ``schedule="steps"``: lr 1e-3 x0.1 at 30, 60 and 90 of 110. ``published="cifar"`` has CIFAR-10's
    settings (section 4.9): 8 bits for 10 epochs; below, steps from lr 0.02 and decay 5e-4.

    ``growth="doubling"``: 165 epochs, the virtual batch doubling at epochs 55, 150 and 160 (Table 2).
    ``pretrained=False``: from scratch, lr 0.1 x 0.901 per epoch, or by steps x0.1 at 30, 60 and 85, and
    1e-6 from 95 on. ``calibrate=False``: activations' ranges not from data.

    Whatever is given (lr, batch_size, weight_decay, schedule, epochs) replaces the paper's.
    """
    check_choice("schedule", schedule, (None, "exponential", "steps"))
    check_choice("growth", growth, ("none", "doubling"))
    check_choice("published", published, tuple(PUBLISHED))
    paper = PUBLISHED[published]
    original = FLOAT[paper.original] if float_schedule == "none" else float_stage(float_schedule)
    eight = min(weights, activations) >= 8 and pretrained and schedule is None
    usual_length = paper.eight_epochs if eight else 165 if growth == "doubling" else PAPER_EPOCHS
    length = usual_length if epochs is None else epochs
    if eight:
        rate, curve = 1e-4 if lr is None else lr, Constant()
        usual_batch, usual_decay = original.batch_size, original.weight_decay
    else:
        first = paper.lr if lr is None and pretrained else lr
        rate, curve = _descent(schedule or paper.schedule, length, pretrained, first)
        of_resnet18 = published == "imagenet" and model in ("resnet18", "torchvision/resnet18")
        usual_batch, usual_decay = 256, RESNET18_DECAY if of_resnet18 else paper.weight_decay
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
        weight_decay=usual_decay if weight_decay is None else weight_decay,
        batch_size=usual_batch if batch_size is None else batch_size,
        growth=_doublings(length) if growth == "doubling" else (),
    )
    stages = (float_stage(float_schedule, float_epochs), stage) if pretrained else (stage,)
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
        return (1e-3 if pretrained else 0.1) if lr is None else lr, Steps(places)
    first = (FIRST_LR if pretrained else 0.1) if lr is None else lr
    if first <= 0:
        raise ValueError(f"lr={first}: expected a positive first rate, which decays to {LAST_LR:g}")
    if epochs == PAPER_EPOCHS:
        return first, Exponential(PAPER_DECAY if pretrained else SCRATCH_DECAY)
    return first, Exponential.reaching(LAST_LR / first, epochs)


RECIPES.add("faq", faq)
_imagenet = partial(faq, data="imagenet", float_schedule="imagenet")
for _net in ("resnet18", "resnet34", "resnet50", "resnet152"):
    RECIPES.add(f"faq-{_net}-imagenet", partial(_imagenet, name=f"faq-{_net}-imagenet", model=_net))
RECIPES.add(
    "faq-resnet18-cifar10",
    partial(faq, name="faq-resnet18-cifar10", model="resnet18_cifar", data="cifar10", published="cifar"),
)
_digits = partial(faq, model="preresnet8", data="digits", float_schedule="digits", epochs=20, lr=0.01, batch_size=64)
RECIPES.add("faq-preresnet8-digits", partial(_digits, name="faq-preresnet8-digits"))
