"""The float network that a quantized one starts from: each paper's own schedule and training, as stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from ..engine.recipe import AVERAGE, Recipe, Stage
from ..registry import nearest
from ..train.objective import Distillation
from ..train.schedules import (
    Constant,
    Cosine,
    Polynomial,
    Sequence,
    Steps,
)
from . import RECIPES, check_choice

FloatTraining = Literal["conventional", "kd", "swa", "kd+swa"]
SWA_START, SWA_FACTOR = 126 / 175, 0.1
WHOLE_SET = 1_000_000  # more batches than any training set has


def _float(epochs: int, lr: float, **settings: Any) -> Stage:
    return Stage(name="float", epochs=epochs, lr=lr, **settings)


FLOAT: dict[str, Stage] = {
    "digits": _float(20, 0.1, schedule=Cosine(), weight_decay=5e-4, batch_size=64),
    "sqwa-cifar": _float(175, 0.1, schedule=Steps((75, 125)), weight_decay=5e-4),
    "sqwa-imagenet": _float(90, 0.4, schedule=Steps((30, 60, 80)), weight_decay=1e-4, batch_size=1024),
    "hol-cifar": _float(200, 0.1, schedule=Steps((100, 150)), weight_decay=5e-4),
    "saq-cifar": _float(200, 0.1, schedule=Steps((80, 120)), weight_decay=1e-4),
    "uniq-cifar": _float(200, 0.1, schedule=Cosine(), weight_decay=5e-4),
    "faq-cifar": _float(350, 0.1, schedule=Steps((150, 250)), weight_decay=5e-4),
    "imagenet": _float(90, 0.1, schedule=Steps((30, 60)), weight_decay=1e-4, batch_size=256),
    "deeplab": _float(60, 0.05, schedule=Polynomial(), weight_decay=1e-4, batch_size=16),
    "spirals": _float(300, 2e-3, schedule=Cosine(), optimizer="adam", batch_size=500),
    "none": _float(0, 0.1),
}
"""Schedules by name, at their own length.

sqwa-cifar and -imagenet, hol-cifar and faq-cifar are printed in SQWA (5.1, 5.2), HOL (appendix) and
FAQ (4.9). SAQ and UNIQ print none: saq-cifar is the default of SAQ's code, uniq-cifar a cosine.
imagenet is torchvision's own; deeplab and spirals are ours, HOL gives none. digits fits 1,347
images. none is measured, not trained: the weights that a run is given.
"""


def float_stage(schedule: str, epochs: int | None = None) -> Stage:
    """The float stage of a schedule by name (``FLOAT``).

    Args:
        schedule: which.
        epochs: another length; milestones keep their place in it. ``none`` stays at 0.

    Raises:
        ValueError: an unknown name, with the nearest known ones.
    """
    if schedule not in FLOAT:
        raise ValueError(f"unknown float schedule {schedule!r}: {nearest(schedule, FLOAT)}")
    stage = FLOAT[schedule]
    if epochs is None or not stage.epochs:
        return stage
    curve = stage.schedule
    if isinstance(curve, Steps):
        curve = replace(curve, milestones=tuple(m * epochs // stage.epochs for m in curve.milestones))
    return replace(stage, epochs=epochs, schedule=curve)


def float_stages(
    schedule: str,
    epochs: int | None = None,
    *,
    training: FloatTraining = "conventional",
    teacher: str | None = None,
    temperature: float = 4.0,
    teacher_weight: float = 0.9,
) -> tuple[Stage, ...]:
    """The float net in one of SQWA's four trainings (Table 1); what is quantized starts from the last stage.

    ``kd`` learns from a teacher. ``swa`` keeps the rate at a tenth of the first from epoch 126 of 175 on,
    averages the nets after each later epoch, and has a second stage ``swa``: the average, its batch-norm
    statistics re-estimated from the whole training set. SQWA names no teacher, temperature, share or
    rate of the averaged part; those here are ours.

    Args:
        schedule, epochs: as ``float_stage`` takes them.
        teacher: a run's folder or a file of ours, ``kd`` only.
        temperature, teacher_weight: T and lambda of the distillation.

    Raises:
        ValueError: an unknown training; ``kd`` without a teacher, or a teacher without ``kd``; an average
            of nothing trained.
    """
    check_choice("float_training", training, ("conventional", "kd", "swa", "kd+swa"))
    stage = float_stage(schedule, epochs)
    if ("kd" in training) != (teacher is not None):
        raise ValueError(f"float_training={training!r} with teacher={teacher!r}: kd, and kd alone, needs a teacher")
    if teacher is not None and not stage.epochs:
        raise ValueError(f"float_training={training!r} over 0 epochs: nothing to learn: take a schedule that trains")
    if teacher is not None:
        stage = replace(
            stage, distillation=Distillation(teacher=teacher, temperature=temperature, weight=teacher_weight)
        )
    return _averaged(stage) if "swa" in training else (stage,)


def _averaged(stage: Stage) -> tuple[Stage, ...]:
    if stage.epochs < 2:
        raise ValueError(f"float_training with swa over {stage.epochs} epochs: nothing to average; take 2 or more")
    begin = min(round(SWA_START * stage.epochs), stage.epochs - 1)
    curve = Sequence(((0, stage.schedule), (begin, Constant(SWA_FACTOR)))) if begin else Constant(SWA_FACTOR)
    training = replace(stage, schedule=curve, captures=tuple(range(begin + 1, stage.epochs + 1)))
    average = Stage(
        name="swa",
        epochs=0,
        start=f"{stage.name}{AVERAGE}",
        lr=stage.lr,
        batch_size=stage.batch_size,
        reestimate_batches=WHOLE_SET,
    )
    return training, average


def float_net(
    *,
    name: str = "float",
    model: str = "resnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "digits",
    float_epochs: int | None = None,
    float_training: FloatTraining = "conventional",
    teacher: str | None = None,
    temperature: float = 4.0,
    teacher_weight: float = 0.9,
    lr: float | None = None,
    batch_size: int | None = None,
) -> Recipe:
    """A float net alone, by any paper's schedule: SQWA's Table 1, teachers, and what runs share as a start.

    Args:
        float_schedule: a name of ``FLOAT``: sqwa-cifar, saq-cifar, imagenet, ...
        float_training: conventional, kd (from ``teacher``: a run's folder), swa or kd+swa.
        lr, batch_size: in place of the schedule's.
    """
    made = float_stages(
        float_schedule,
        float_epochs,
        training=float_training,
        teacher=teacher,
        temperature=temperature,
        teacher_weight=teacher_weight,
    )
    given = {key: value for key, value in {"lr": lr, "batch_size": batch_size}.items() if value is not None}
    stages = tuple(replace(stage, **given) for stage in made)
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=stages)


RECIPES.add("float", float_net)
