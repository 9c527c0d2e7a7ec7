"""SQWA: retrain with a cyclic rate, average the captures on one grid, quantize the average again, fine-tune."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from ..engine.recipe import AVERAGE, Recipe, Stage
from ..quant.policy import FLOAT_BITS, Policy
from ..quant.presets import policy
from ..train.objective import Distillation
from ..train.schedules import Cyclic, Exponential
from . import RECIPES, check_choice
from .float_net import WHOLE_SET, FloatTraining, float_stages

Group = Literal["late", "early"]
EARLY = 40  # the epoch of the first early capture (Table 2)


def sqwa(
    *,
    name: str = "sqwa",
    model: str = "resnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "sqwa-cifar",
    float_epochs: int | None = None,
    float_training: FloatTraining = "conventional",
    teacher: str | None = None,
    temperature: float = 4.0,
    teacher_weight: float = 0.9,
    weights: int = 2,
    activations: int = FLOAT_BITS,
    convention: Literal["sqwa", "sqwa-all"] = "sqwa",
    epochs: int = 250,
    lr: float = 1e-2,
    lowest: float = 1e-4,
    cycle: int = 6,
    between: int = 2,
    num_captures: int = 7,
    captures: Group = "late",
    keep_captures: bool = False,
    tune_epochs: int = 4,
    batch_size: int = 128,
) -> Recipe:
    """SQWA's five stages (section 4; the CIFAR-100 runs' settings are the default).

    ``float``; ``direct``, quantized and not trained; ``retrain``, SGD 0.9 without decay, the rate from
    ``lr`` to ``lowest`` and back (a tenth of the float training's highest and lowest), captured at the
    ends of its last minima; ``average`` of the captures' quantized weights, on the grid D/n;
    ``requantized``, the average at a new D (the paper's "Direct" in Table 2); ``fine-tuned`` from it,
    lr a tenth of ``lr`` x0.1 per epoch. Batch-norm statistics are re-estimated from the whole training
    set after averaging and after re-quantizing.

    Args:
        float_training, teacher, temperature, teacher_weight: as ``flatbit run float`` takes them.
        weights: bits; 2 is ternary, 1 binary (Table 3).
        activations: bits, by PACT; float in the paper.
        convention: ``sqwa`` leaves the first and last layer float, ``sqwa-all`` quantizes all.
        epochs: of retraining; it ends at the last minimum within.
        cycle, between: epochs of a cycle and rates between its ends: 6 and 2, or 4 and 1.
        num_captures: how many nets are averaged (Table 5: 3, 7, 15, 31).
        captures: the ``late`` group ends with the retraining, the ``early`` one begins at epoch 40.
        keep_captures: also keep each captured net in a file (loss planes of Figures 1 and 4).
        tune_epochs: of the last stage: 4, ImageNet 5.
    """
    floats = float_stages(
        float_schedule,
        float_epochs,
        training=float_training,
        teacher=teacher,
        temperature=temperature,
        teacher_weight=teacher_weight,
    )
    check_choice("convention", convention, ("sqwa", "sqwa-all"))
    method = "pact" if activations < FLOAT_BITS else None
    rules = policy(convention, weights=weights, activations=activations, activation_method=method)
    begin = floats[-1].name
    rest = averaged_stages(
        rules,
        begin,
        epochs=epochs,
        lr=lr,
        lowest=lowest,
        cycle=cycle,
        between=between,
        num_captures=num_captures,
        captures=captures,
        keep_captures=keep_captures,
        tune_epochs=tune_epochs,
        batch_size=batch_size,
    )
    direct = Stage(name="direct", epochs=0, policy=rules, start=begin, lr=lr, batch_size=batch_size)
    stages = (*floats, direct, *rest)
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=stages)


def averaged_stages(
    rules: Policy,
    begin: str,
    *,
    epochs: int,
    lr: float,
    lowest: float,
    cycle: int = 6,
    between: int = 2,
    num_captures: int = 7,
    captures: Group = "late",
    keep_captures: bool = False,
    tune_epochs: int = 4,
    batch_size: int = 128,
    distillation: Distillation | None = None,
) -> tuple[Stage, ...]:
    """SQWA's stages 3 to 5 under any policy: ``retrain``, ``average``, ``requantized`` and ``fine-tuned``.

    Learned steps and clips of weights stay as they begin, while captures are taken, so that these share
    one grid, and while fine-tuning (the paper's D is fixed in both).

    Args:
        rules: what is quantized, per tensor.
        begin: the stage that retraining starts from.
        epochs, lr, lowest, cycle, between, num_captures, captures, keep_captures, tune_epochs: as ``sqwa``.
        distillation: of the two stages that train; SQWA has none.

    Raises:
        ValueError: too few minima for the captures; parts of a cycle that are no whole epochs.
    """
    if not 0 < lowest <= lr:
        raise ValueError(f"a cycle from lr={lr} down to {lowest}: expected positive rates, the second no higher")
    curve = Cyclic.of(lowest / lr, cycle=cycle, between=between)
    places = capture_epochs(curve, epochs, num_captures, captures)
    ends = int(curve.minima(epochs)[-1])
    average = f"retrain{AVERAGE}"
    common: dict[str, Any] = {"batch_size": batch_size, "reestimate_batches": WHOLE_SET}
    return (
        Stage(
            name="retrain",
            epochs=ends,
            policy=rules,
            start=begin,
            lr=lr,
            schedule=curve,
            captures=places,
            keep_captures=keep_captures,
            fixed_weight_steps=True,
            batch_size=batch_size,
            distillation=distillation,
        ),
        Stage(name="average", epochs=0, start=average, lr=lr, **common),
        Stage(name="requantized", epochs=0, policy=rules, start=average, lr=lr, **common),
        Stage(
            name="fine-tuned",
            epochs=tune_epochs,
            policy=rules,
            start=average,
            lr=lr / 10,
            schedule=Exponential(0.1),
            fixed_weight_steps=True,
            batch_size=batch_size,
            distillation=distillation,
        ),
    )


def capture_epochs(curve: Cyclic, epochs: int, num_captures: int, captures: Group) -> tuple[int, ...]:
    """After which epochs a net is captured: ``num_captures`` minima, the last or from epoch 40 on.

    Raises ValueError where there are not so many, or where they do not fall on whole epochs.
    """
    check_choice("captures", captures, ("late", "early"))
    minima = curve.minima(epochs)
    if any(place != int(place) for place in minima):
        raise ValueError(
            f"a cycle with parts of {curve.part:g} epochs: captures need whole ones: cycle 6 and between 2"
        )
    places = [int(place) for place in minima]
    usable = [place for place in places if captures == "late" or place >= EARLY]
    if not 1 <= num_captures <= len(usable):
        raise ValueError(
            f"num_captures={num_captures} {captures} ones of {epochs} epochs: the rate has {len(usable)} such minima "
            f"(all: {', '.join(map(str, places)) or 'none'}): give another epochs= or num_captures="
        )
    return tuple(usable[-num_captures:] if captures == "late" else usable[:num_captures])


RECIPES.add("sqwa", sqwa)
_cifar = partial(sqwa, data="cifar100")
RECIPES.add("sqwa-resnet20-cifar100", partial(_cifar, name="sqwa-resnet20-cifar100", model="resnet20"))
RECIPES.add(
    "sqwa-mobilenet_v2-cifar100",
    partial(_cifar, name="sqwa-mobilenet_v2-cifar100", model="mobilenet_v2_cifar", model_arguments={"variant": "saq"}),
)
RECIPES.add(
    "sqwa-resnet18-imagenet",
    partial(
        sqwa,
        name="sqwa-resnet18-imagenet",
        model="resnet18",
        data="imagenet",
        float_schedule="sqwa-imagenet",
        epochs=238,
        lr=4e-2,
        lowest=4e-5,
        tune_epochs=5,
        batch_size=1024,
    ),
)
_digits = partial(sqwa, model="preresnet8", data="digits", float_schedule="digits", epochs=40, batch_size=64)
RECIPES.add("sqwa-preresnet8-digits", partial(_digits, name="sqwa-preresnet8-digits"))
