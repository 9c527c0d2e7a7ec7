"""FAQ: fine-tune after quantization, from a float net, with power-of-two steps."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ..engine.recipe import Stage
from ..quant.policy import Policy
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import START, From
from ..train.schedules import Exponential, MultiStep, Schedule
from . import RECIPES, Printed, Registration, Stages
from .float_net import Pretraining, float_stages, scheduled

PAPER_EPOCHS, PAPER_DECAY, SCRATCH_DECAY = 110, 0.936, 0.901
FIRST_LR, LAST_LR = 0.0015, 1e-6
DOUBLED_EPOCHS, DOUBLINGS = 165, (55 / 165, 150 / 165, 160 / 165)
RESNET18_DECAY = 5e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What the paper sets apart for one data set.

    Attributes:
        original: the float schedule, whose batch and decay 8-bit runs keep.
        eight_epochs: of an 8-bit run.
        schedule, lr, weight_decay: below 8 bits, from the float net; lr None for the schedule's own.
    """

    original: str = "imagenet"
    eight_epochs: int = 1
    schedule: Literal["exponential", "steps"] = "exponential"
    lr: float | None = None
    weight_decay: float = 1e-4


IMAGENET = Published()
CIFAR = Published(original="faq-cifar", eight_epochs=10, schedule="steps", lr=0.02, weight_decay=5e-4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """What replaces the paper's training of the quantized net; None keeps it.

    Attributes:
        epochs, lr, batch_size, weight_decay: numbers; another length keeps the first and the last rate.
        schedule: ``exponential``, or ``steps`` x0.1 at 30, 60 and 90 of 110 epochs.
        accumulation: ``doubling``: 165 epochs, gradients of 2, 4 and 8 mini-batches from epochs 55, 150 and 160
            on (Table 2's growing batch).
    """

    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    schedule: Literal["exponential", "steps"] | None = None
    accumulation: Literal["doubling"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantizers:
    """How steps are found, and where activations are quantized.

    Attributes:
        calibrate: take activations' ranges from data (Table 2).
        clip_is_half_width: read the paper's constant c so.
        placement: at the activations' ``output``, or at the layers' ``input``.
    """

    calibrate: bool = True
    clip_is_half_width: bool = False
    placement: Literal["input", "output"] = "output"

    def policy(self, weights: int, activations: int) -> Policy:
        """FAQ's convention. Raises ValueError for a setting of what stays float."""
        self._check_left_out("weights", weights, ("clip_is_half_width",))
        self._check_left_out("activations", activations, ("calibrate", "placement"))
        return policy(
            "faq",
            weights=weights,
            activations=activations,
            placement=self.placement if activations < FLOAT_BITS else None,
            weight_options={"clip_is_half_width": self.clip_is_half_width} if weights < FLOAT_BITS else None,
            activation_options={"calibrate": self.calibrate} if activations < FLOAT_BITS else None,
        )

    def _check_left_out(self, what: str, bits: int, names: tuple[str, ...]) -> None:
        for name in names:
            value = getattr(self, name)
            if bits >= FLOAT_BITS and value != getattr(Quantizers(), name):
                raise ValueError(f"quantizers.{name}={value} cannot act: {what} are float: leave it out")


def faq_stages(
    *,
    weights: int = 4,
    activations: int = 4,
    quantizers: Quantizers = Quantizers(),
    pretraining: Pretraining | Literal["scratch"] | None = Pretraining(schedule="faq-cifar"),
    published: Published = IMAGENET,
    training: Descent = Descent(),
) -> Stages:
    """FAQ at 8 bits (1 epoch at lr 1e-4) or below (110 epochs of exponential decay from 0.0015).

    8 bits: batch and decay of the float net's training. Below 8 bits: SGD 0.9, batch 256, decay 1e-4
    (ResNet-18: 5e-5), lr x 0.936 per epoch. CIFAR-10's settings (section 4.9) are 8 bits for 10 epochs;
    below, steps from lr 0.02 and decay 5e-4.

    Args:
        quantizers: how steps are found.
        pretraining: of the float net; None measures the one that the run is given. ``scratch`` has none:
            lr 0.1 x 0.901 per epoch, or by steps x0.1 at 30, 60 and 85, and 1e-6 from 95 on (section 4.3).
        published: what the paper prints for the data set.
        training: what replaces it.
    """
    floats = () if pretraining == "scratch" else float_stages(pretraining)
    stage = Stage(
        name=f"faq-w{weights}a{activations}",
        epochs=0,
        policy=quantizers.policy(weights, activations),
        start=From.stage(floats[-1].name) if floats else START,
    )
    if floats and min(weights, activations) >= 8 and training.schedule is None:
        original = floats[0] if floats[0].epochs else scheduled(published.original)
        return (*floats, _at_8_bits(stage, original, published, training))
    return (*floats, _below_8_bits(stage, published, training))


def _at_8_bits(stage: Stage, original: Stage, published: Published, training: Descent) -> Stage:
    """A short stage at a low rate, with batch and decay of the float net's training."""
    epochs = _given(training.epochs, published.eight_epochs)
    descent = {
        "lr": _given(training.lr, 1e-4),
        "weight_decay": _given(training.weight_decay, original.weight_decay),
        "accumulation": _doublings(epochs) if training.accumulation else (),
    }
    size = _given(training.batch_size, original.batch_size)
    return replace(stage, epochs=epochs, batch_size=size, **descent if epochs else {})


def _below_8_bits(stage: Stage, published: Published, training: Descent) -> Stage:
    """A stage of falling rates; without a float net to start from these are higher."""
    scratch = stage.start == START
    epochs = _given(training.epochs, DOUBLED_EPOCHS if training.accumulation else PAPER_EPOCHS)
    first = training.lr if scratch else _given(training.lr, published.lr)
    lr, schedule = _falling(training.schedule or published.schedule, epochs, scratch, first)
    descent = {
        "lr": lr,
        "schedule": schedule,
        "weight_decay": _given(training.weight_decay, published.weight_decay),
        "accumulation": _doublings(epochs) if training.accumulation else (),
    }
    size = _given(training.batch_size, 256)
    return replace(stage, epochs=epochs, batch_size=size, **descent if epochs else {})


def _given(value: Any, usual: Any) -> Any:
    return usual if value is None else value


def _doublings(epochs: int) -> tuple[tuple[int, int], ...]:
    """From which epoch on an update takes 2, 4 and 8 mini-batches. Raises ValueError for too few epochs."""
    places = [round(share * epochs) for share in DOUBLINGS]
    if sorted({0, *places, epochs}) != [0, *places, epochs]:
        raise ValueError(
            f"training.accumulation=doubling with training.epochs={epochs}: the three fall together: take 33 or more"
        )
    return tuple((place, 2 ** (index + 1)) for index, place in enumerate(places))


def _falling(
    schedule: Literal["exponential", "steps"], epochs: int, scratch: bool, lr: float | None
) -> tuple[float, Schedule]:
    """First rate and schedule of a run below 8 bits."""
    if schedule == "steps":
        milestones = (30, 60, 85, 95, 95) if scratch else (30, 60, 90)  # from scratch it falls to 1e-6 at 95
        places = tuple(round(m * epochs / PAPER_EPOCHS) for m in milestones)
        return (0.1 if scratch else 1e-3) if lr is None else lr, MultiStep(places)
    first = (0.1 if scratch else FIRST_LR) if lr is None else lr
    if first <= 0:
        raise ValueError(f"lr={first}: expected a positive first rate, which decays to {LAST_LR:g}")
    if epochs == PAPER_EPOCHS:
        return first, Exponential(SCRATCH_DECAY if scratch else PAPER_DECAY)
    return first, Exponential.reaching(LAST_LR / first, epochs)


_IMAGENET: dict[str, Any] = {"pretraining.schedule": "imagenet"}
RECIPES.add("faq", Registration(stages=faq_stages, model="resnet20", data="digits"))
for _net in ("resnet34", "resnet50", "resnet152"):
    RECIPES.add(
        f"faq-{_net}-imagenet", Registration(stages=faq_stages, model=_net, data="imagenet", settings=_IMAGENET)
    )
RECIPES.add(
    "faq-resnet18-imagenet",
    Registration(
        stages=faq_stages,
        model="resnet18",
        data="imagenet",
        settings=_IMAGENET,
        printed={"published.weight_decay": Printed(values=dict.fromkeys(range(1, 9), RESNET18_DECAY))},
    ),
)
RECIPES.add(
    "faq-resnet18-cifar10",
    Registration(
        stages=faq_stages,
        model="resnet18_cifar",
        data="cifar10",
        settings={f"published.{field.name}": getattr(CIFAR, field.name) for field in fields(CIFAR)},
    ),
)
RECIPES.add(
    "faq-preresnet8-digits",
    Registration(
        stages=faq_stages,
        model="preresnet8",
        data="digits",
        settings={
            "pretraining.schedule": "digits", "training.epochs": 20, "training.lr": 0.01, "training.batch_size": 64,
        },
    ),
)  # fmt: skip
