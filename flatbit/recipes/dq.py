"""DQ: steps and ranges that learn, and with them the bits of every layer, under a budget of bit-operations.

Uhlich, Mauch, Cardinaux, Yoshiyama, Garcia, Tiedemann, Kemp, Nakamura: Mixed precision DNNs: all you need is a good
parametrization, ICLR 2020 (U3), as SAQ compares with it (Tables 1 and 2, appendix B).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..quant.presets import policy
from ..reference import From
from ..train.losses.cost import CostPenalty
from ..train.losses.labels import CrossEntropy
from ..train.optimizers import Adam
from ..train.schedules import Cosine
from . import RECIPES, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Penalty:
    """``weight (max(0, c(b) - C)/C)^2``: the excess is a share of the budget, so one weight serves nets of any size.

    Attributes:
        mbitops: C, in millions of bit-operations of one image.
        weight: the papers leave it open. On digits (``dq-preresnet20-digits``, seeds 0 to 2) ours ends 0.6 to 0.8 %
            below the budget, twice as much 2.3 % below to 0.2 % above it. Nothing pulls bits up again: a larger rate
            (0.01) ends 0.1 to 2.8 % below, and a net of fewer layers, where one bit of one is 5 % of the cost, up to
            8 %.

    Raises:
        ValueError: one that is not positive.
    """

    mbitops: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        for key in ("mbitops", "weight"):
            value = getattr(self, key)
            if not 0 < value < math.inf:
                raise ValueError(f"{key}={value!r}: expected a positive number")

    def term(self) -> CostPenalty:
        """The loss term, which is absolute: in squared millions of bit-operations."""
        return CostPenalty(target_mbitops=float(self.mbitops), weight=self.weight / self.mbitops**2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How the net is trained: Adam with a cosine to 0, both ours.

    The penalty's pull at a step is many times that of the labels: Adam's steps do not grow with it, where SGD either
    leaves the net above the budget or throws steps far off.

    Attributes:
        epochs, lr, batch_size: of it. In few updates a small rate does not take the ranges down to the budget.
        weight_decay: not of steps and ranges.
    """

    epochs: int = 200
    lr: float = 0.01
    batch_size: int = 128
    weight_decay: float = 0.0


def dq_stages(
    *,
    weights: int = 4,
    activations: int = 4,
    penalty: Penalty,
    pretraining: Pretraining | None = Pretraining(schedule="saq-cifar"),
    training: Descent = Descent(),
) -> Stages:
    """DQ: bits per layer from learned steps and ranges, with SAQ's penalty on cost.

    Its bits are an assignment: ``flatbit cost RUN --assignment FILE`` writes them as a file that other recipes take.
    First and last layer start at 8 bits and learn theirs as all do, up to 8.

    Args:
        weights, activations: where the bits of all other layers start.
        penalty: on what costs more than the budget.
        pretraining: of the float net; None measures the one that the run is given.
        training: of the quantized net.
    """
    floats = float_stages(pretraining)
    stage = stage_of(
        name="dq",
        epochs=training.epochs,
        policy=policy("dq", weights=weights, activations=activations),
        start=From.stage(floats[-1].name),
        optimizer=Adam(),
        lr=training.lr,
        schedule=Cosine(),
        weight_decay=training.weight_decay,
        batch_size=training.batch_size,
        losses=(CrossEntropy(), penalty.term()),
    )
    return (*floats, stage)


def _registered(model: str, data: str, mbitops: float, settings: dict[str, Any] | None = None) -> Registration:
    """DQ on a net of SAQ's, at the bit-operations of a uniform one."""
    return Registration(
        stages=dq_stages,
        model=model,
        model_arguments={"variant": "saq"},
        data=data,
        settings={"penalty.mbitops": mbitops} | (settings or {}),
    )


_DIGITS = {
    "pretraining.schedule": "digits", "training.epochs": 40, "training.batch_size": 64, "training.lr": 0.003,
}  # fmt: skip
RECIPES.add("dq-preresnet20-cifar100", _registered("preresnet20", "cifar100", 674.644))
RECIPES.add("dq-mobilenet_v2-cifar100", _registered("mobilenet_v2_cifar", "cifar100", 1508.934))
RECIPES.add("dq-preresnet20-digits", _registered("preresnet20", "digits", 41.001, _DIGITS))
