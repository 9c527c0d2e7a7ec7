"""HOL: weights and activations quantized apart and together; smoother by a Lipschitz term and a cyclic rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..engine.recipe import Stage
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..train.losses.labels import CrossEntropy
from ..train.losses.orthogonality import Lipschitz
from ..train.schedules import Cyclic, MultiStep
from . import RECIPES, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages

Quantized = Literal["each", "weights", "activations", "both"]
CYCLES, PARTS = 5, 8
LAST_MINIMUM = (CYCLES - 1) * PARTS + PARTS // 2 + 1  # parts up to the end of the last one at the bottom


@dataclass(frozen=True, kw_only=True, slots=True)
class CyclicRate:
    """CLR: fine-tuning after retraining, five cycles of eight equal parts, from lr to a hundredth of it and back.

    Attributes:
        epochs: of the five cycles; the stage ends where the last minimum does, at epoch 37 of 40.
        lr: the highest.
    """

    epochs: int = 40
    lr: float = 1e-3

    @property
    def ends(self) -> int:
        """After which epoch the last minimum ends."""
        return max(1, LAST_MINIMUM * self.epochs // (PARTS * CYCLES))

    @property
    def schedule(self) -> Cyclic:
        """The factor of lr."""
        return Cyclic(0.01, half=PARTS // 2, part=self.ends / LAST_MINIMUM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retraining:
    """How each quantized net is retrained; CIFAR-10's settings by default.

    Attributes:
        epochs, lr, weight_decay, batch_size: of SGD 0.9.
        milestones: where the rate falls x0.1, as shares of the epochs, between 0 and 1.

    Raises:
        ValueError: a milestone that is no such share.
    """

    epochs: int = 100
    lr: float = 0.01
    milestones: tuple[float, ...] = (0.5, 0.8)
    weight_decay: float = 0.0
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not all(0 < share < 1 for share in self.milestones):
            raise ValueError(f"milestones={self.milestones}: expected shares of the epochs, between 0 and 1")


def hol_stages(
    *,
    weights: int = 2,
    activations: int = 2,
    quantized: Quantized | tuple[Quantized, ...] = "each",
    convention: Literal["hol", "hol-imagenet"] = "hol",
    pretraining: Pretraining | None = Pretraining(schedule="hol-cifar"),
    training: Retraining = Retraining(),
    lipschitz: Lipschitz | None = None,
    clr: CyclicRate | None = None,
) -> Stages:
    """Retraining of HOL, and its two smoothers (CIFAR-10's settings are the default; Tables 4 and 5, Figures 6 to 8).

    SGD 0.9, 100 epochs, lr 0.01 x0.1 at 50 and 80, batch 128, no decay; first and last layer float, PACT at each
    ReLU's output and on residual tensors. Any width, depth and kind of block: by the model's arguments.

    Args:
        quantized: ``weights`` alone, ``activations`` alone, ``both``, or ``each`` of the three, from one
            float net; or a list of these.
        convention: ``hol-imagenet`` keeps residual tensors at 8 bits and has four-level weights.
        pretraining: of the float net; None measures the one that the run is given.
        training: of each quantized net.
        lipschitz: add the Lipschitz term, in all stages of quantized nets; ``on`` for HOL's weight.
        clr: fine-tune with a cyclic rate after retraining (a stage ``NAME-clr``); ``on`` for HOL's.
    """
    places = tuple(round(share * training.epochs) for share in training.milestones)
    stages = list(float_stages(pretraining))
    begin = From.stage(stages[-1].name)
    for w, a in pairs(weights, activations, quantized):
        retrain = stage_of(
            name=f"hol-w{w}a{a}",
            epochs=training.epochs,
            policy=policy(convention, weights=w, activations=a),
            start=begin,
            lr=training.lr,
            schedule=MultiStep(places),
            weight_decay=training.weight_decay,
            batch_size=training.batch_size,
        )
        stages += smoothed(retrain, lipschitz, clr)
    return tuple(stages)


def pairs(weights: int, activations: int, quantized: Quantized | tuple[Quantized, ...]) -> list[tuple[int, int]]:
    """The bits (W, A) of each net to make; what is float already makes none.

    Raises ValueError where nothing is quantized.
    """
    made = {
        "weights": [(weights, FLOAT_BITS)],
        "activations": [(FLOAT_BITS, activations)],
        "both": [(weights, activations)],
    }
    made["each"] = [pair for pairs in made.values() for pair in pairs]
    choices = [quantized] if isinstance(quantized, str) else list(quantized)
    chosen = dict.fromkeys(pair for choice in choices for pair in made[choice])
    found = [pair for pair in chosen if pair != (FLOAT_BITS, FLOAT_BITS)]
    if not found:
        raise ValueError(f"quantized={quantized!r} with W{weights}/A{activations}: nothing to quantize")
    return found


def smoothed(retrain: Stage, lipschitz: Lipschitz | None, clr: CyclicRate | None) -> list[Stage]:
    """A retraining stage with the Lipschitz term, and the cyclic fine-tuning after it, where there are any."""
    if lipschitz is not None:
        retrain = replace(retrain, losses=(CrossEntropy(), lipschitz))
    if clr is None:
        return [retrain]
    cycles = replace(
        retrain,
        name=f"{retrain.name}-clr",
        start=From.stage(retrain.name),
        epochs=clr.ends,
        lr=clr.lr,
        schedule=clr.schedule,
    )
    return [retrain, cycles]


RECIPES.add("hol", Registration(stages=hol_stages, model="resnet20", data="digits"))
RECIPES.add(
    "hol-resnet20-cifar10",
    Registration(stages=hol_stages, model="resnet20", model_arguments={"shortcut": "B"}, data="cifar10"),
)
RECIPES.add(
    "hol-preresnet34-imagenet",
    Registration(
        stages=hol_stages,
        model="preresnet34",
        data="imagenet",
        settings={
            "pretraining.schedule": "imagenet", "quantized": "both", "convention": "hol-imagenet",
            "training.epochs": 90, "training.lr": 0.04, "training.milestones": (1 / 3, 2 / 3),
            "training.weight_decay": 1e-4, "training.batch_size": 512,
        },
    ),
)  # fmt: skip
RECIPES.add(
    "hol-preresnet8-digits",
    Registration(
        stages=hol_stages,
        model="preresnet8",
        model_arguments={"variant": "hol"},
        data="digits",
        settings={
            "pretraining.schedule": "digits", "training.epochs": 20, "training.batch_size": 64, "clr": "none",
            "clr.epochs": 8,
        },
    ),
)  # fmt: skip
