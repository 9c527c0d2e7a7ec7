"""The float network that a quantized one starts from: each paper's own schedule and training, as stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..engine.recipe import Stage
from ..reference import From
from ..registry import nearest
from ..train.losses.teacher import Distillation, taught
from ..train.optimizers import Adam
from ..train.schedules import Constant, Cosine, Join, MultiStep, Polynomial
from . import RECIPES, Registration, Stages

WHOLE_SET = 1_000_000  # more batches than any training set has


def _float(epochs: int, lr: float, **settings: Any) -> Stage:
    return Stage(name="float", epochs=epochs, lr=lr, **settings)


FLOAT: dict[str, Stage] = {
    "digits": _float(20, 0.1, schedule=Cosine(), weight_decay=5e-4, batch_size=64),
    "sqwa-cifar": _float(175, 0.1, schedule=MultiStep((75, 125)), weight_decay=5e-4),
    "sqwa-imagenet": _float(90, 0.4, schedule=MultiStep((30, 60, 80)), weight_decay=1e-4, batch_size=1024),
    "hol-cifar": _float(200, 0.1, schedule=MultiStep((100, 150)), weight_decay=5e-4),
    "saq-cifar": _float(200, 0.1, schedule=MultiStep((80, 120)), weight_decay=1e-4),
    "uniq-cifar": _float(200, 0.1, schedule=Cosine(), weight_decay=5e-4),
    "faq-cifar": _float(350, 0.1, schedule=MultiStep((150, 250)), weight_decay=5e-4),
    "imagenet": _float(90, 0.1, schedule=MultiStep((30, 60)), weight_decay=1e-4, batch_size=256),
    "deeplab": _float(60, 0.05, schedule=Polynomial(), weight_decay=1e-4, batch_size=16),
    "spirals": _float(300, 2e-3, schedule=Cosine(), optimizer=Adam(), batch_size=500, evaluate_every=30),
}
"""Schedules by name, at their own length.

sqwa-cifar and -imagenet, hol-cifar and faq-cifar are printed in SQWA (5.1, 5.2), HOL (appendix) and
FAQ (4.9). SAQ and UNIQ print none: saq-cifar is the default of SAQ's code, uniq-cifar a cosine.
imagenet is torchvision's own; deeplab and spirals are ours, HOL gives none. digits fits 1,347
images.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightAveraging:
    """SWA: from a share of the epochs on, the rate stays low and the net after each epoch joins the average.

    SQWA names neither the rate of the averaged part nor its beginning; the tenth from epoch 126 of 175 are ours.

    Attributes:
        begin: share of the epochs done when it begins.
        factor: of the schedule's first rate.
    """

    begin: float = 126 / 175
    factor: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.begin < 1 or self.factor <= 0:
            raise ValueError(f"{self}: expected a share from 0 up to 1, and a positive factor")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """How the float net is trained. In a recipe, None measures it instead: the weights that the run is given.

    Attributes:
        schedule: a name of ``FLOAT``: sqwa-cifar, saq-cifar, imagenet, ...
        epochs: another length; milestones keep their place in it.
        lr, batch_size: in place of the schedule's.
        distillation: learn from a teacher too (SQWA's Table 1: KD).
        swa: average the nets of the last epochs (SQWA's Table 1: SWA), in a stage ``swa`` of its own.
    """

    schedule: str = "digits"
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    distillation: Distillation | None = None
    swa: WeightAveraging | None = None


def scheduled(name: str) -> Stage:
    """The float stage of ``FLOAT`` by name. Raises ValueError for an unknown one, with the nearest known ones."""
    if name not in FLOAT:
        raise ValueError(f"unknown float schedule {name!r}: {nearest(name, FLOAT)}")
    return FLOAT[name]


def float_stages(pretraining: Pretraining | None) -> Stages:
    """The stage ``float``, and ``swa`` after it where nets are averaged; quantized ones start from the last.

    Raises:
        ValueError: an unknown schedule, with the nearest known ones; an average of fewer than two epochs.
    """
    if pretraining is None:
        return (Stage(name="float", epochs=0),)
    stage = scheduled(pretraining.schedule)
    epochs = stage.epochs if pretraining.epochs is None else pretraining.epochs
    if not epochs:
        raise ValueError("pretraining.epochs=0 trains nothing: pretraining=none measures the float net as it is")
    curve = stage.schedule.scaled(stage.epochs, epochs)
    given = {"lr": pretraining.lr, "batch_size": pretraining.batch_size}
    given = {key: value for key, value in given.items() if value is not None}
    given["evaluate_every"] = max(1, stage.evaluate_every * epochs // stage.epochs)
    stage = replace(stage, epochs=epochs, schedule=curve, losses=taught(pretraining.distillation), **given)
    return (stage,) if pretraining.swa is None else _averaged(stage, pretraining.swa)


def _averaged(stage: Stage, swa: WeightAveraging) -> Stages:
    if stage.epochs < 2:
        raise ValueError(f"swa over {stage.epochs} epochs: nothing to average; take 2 or more")
    begin = min(round(swa.begin * stage.epochs), stage.epochs - 1)
    low = Constant(swa.factor)
    curve = Join(((0, stage.schedule), (begin, low))) if begin else low
    training = replace(stage, schedule=curve, captures=tuple(range(begin + 1, stage.epochs + 1)))
    average = Stage(
        name="swa",
        epochs=0,
        start=From.stage(stage.name, average=True),
        batch_size=stage.batch_size,
        reestimate_batches=WHOLE_SET,
    )
    return training, average


def float_alone(
    *,
    schedule: str = "digits",
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    distillation: Distillation | None = None,
    swa: WeightAveraging | None = None,
) -> Stages:
    """A float net alone, by any paper's schedule: SQWA's Table 1, teachers, and what runs share as a start.

    Args:
        schedule: a name of ``FLOAT``: sqwa-cifar, saq-cifar, imagenet, ...
        epochs, lr, batch_size, distillation, swa: as ``Pretraining`` has them; Table 1's KD takes
            ``--set distillation.teacher=file:RUN``, its SWA ``--set swa=on``.
    """
    if epochs == 0:
        raise ValueError("epochs=0: 0 epochs train nothing")
    return float_stages(
        Pretraining(schedule=schedule, epochs=epochs, lr=lr, batch_size=batch_size, distillation=distillation, swa=swa)
    )


RECIPES.add("float", Registration(stages=float_alone, model="resnet20", data="digits"))
