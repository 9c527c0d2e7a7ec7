"""SQWA: retrain with a cyclic rate, average the captures on one grid, quantize the average again, fine-tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..engine.recipe import Stage
from ..quant.policy import Policy
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..train.losses.teacher import Distillation, taught
from ..train.schedules import Cyclic, Exponential
from . import RECIPES, Registration, Stages, stage_of
from .float_net import WHOLE_SET, Pretraining, float_stages

EARLY = 40  # the epoch of the first early capture (Table 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaging:
    """SQWA's stages 3 to 5: retraining with captures, and tuning; the CIFAR-100 runs' settings by default.

    Attributes:
        epochs: of retraining; it ends at the last minimum within.
        lr, lowest: where the rate begins, and how low it falls.
        cycle, between: epochs of a cycle and rates between its ends: 6 and 2, or 4 and 1.
        num_captures: how many nets are averaged (Table 5: 3, 7, 15, 31).
        captures: the ``late`` group ends with the retraining, the ``early`` one begins at epoch 40.
        keep_captures: also keep each captured net in a file (loss planes of Figures 1 and 4).
        tune_epochs: of the last stage: 4, ImageNet 5.
        batch_size: of all of them.

    Raises:
        ValueError: rates that are no cycle.
    """

    epochs: int = 250
    lr: float = 1e-2
    lowest: float = 1e-4
    cycle: int = 6
    between: int = 2
    num_captures: int = 7
    captures: Literal["late", "early"] = "late"
    keep_captures: bool = False
    tune_epochs: int = 4
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.lowest <= self.lr:
            raise ValueError(
                f"a cycle from lr={self.lr} down to {self.lowest}: expected positive rates, the second no higher"
            )

    @property
    def schedule(self) -> Cyclic:
        """The cyclic rate."""
        return Cyclic.of(self.lowest / self.lr, cycle=self.cycle, between=self.between)


def sqwa_stages(
    *,
    weights: int = 2,
    activations: int = FLOAT_BITS,
    convention: Literal["sqwa", "sqwa-all"] = "sqwa",
    pretraining: Pretraining | None = Pretraining(schedule="sqwa-cifar"),
    averaging: Averaging = Averaging(),
) -> Stages:
    """SQWA's five stages (section 4; the CIFAR-100 runs' settings are the default).

    ``float``; ``direct``, quantized and not trained; ``retrain``, SGD 0.9 without decay, the rate from
    ``averaging.lr`` to ``averaging.lowest`` and back (a tenth of the float training's highest and lowest),
    captured at the ends of its last minima; ``average`` of the captures' quantized weights, on the grid D/n;
    ``requantized``, the average at a new D (the paper's "Direct" in Table 2); ``fine-tuned`` from it,
    lr a tenth of retraining's x0.1 per epoch. Batch-norm statistics are re-estimated from the whole training
    set after averaging and after re-quantizing.

    Args:
        weights: bits; 2 is ternary, 1 binary (Table 3).
        activations: bits, by PACT; float in the paper.
        convention: ``sqwa`` leaves the first and last layer float, ``sqwa-all`` quantizes all.
        pretraining: of the float net, with KD and SWA in the paper; None measures the one that the run is given.
        averaging: of the rest.
    """
    method = "pact" if activations < FLOAT_BITS else None
    chosen = policy(convention, weights=weights, activations=activations, activation_method=method)
    floats = float_stages(pretraining)
    begin = From.stage(floats[-1].name)
    direct = Stage(name="direct", epochs=0, policy=chosen, start=begin, batch_size=averaging.batch_size)
    return (*floats, direct, *averaged_stages(chosen, begin, averaging))


def averaged_stages(
    chosen: Policy, begin: From, averaging: Averaging, distillation: Distillation | None = None
) -> Stages:
    """SQWA's stages 3 to 5 under any policy: ``retrain``, ``average``, ``requantized`` and ``fine-tuned``.

    Learned steps and clips of weights stay as they begin, while captures are taken, so that these share
    one grid, and while fine-tuning (the paper's D is fixed in both).

    Args:
        chosen: what is quantized, per tensor.
        begin: what retraining starts from.
        averaging: how long, how fast, how many.
        distillation: of the two stages that train; SQWA has none.

    Raises:
        ValueError: too few minima for the captures; parts of a cycle that are no whole epochs.
    """
    average, captures = From.stage("retrain", average=True), capture_epochs(averaging)
    trained: dict[str, Any] = {"policy": chosen, "fixed_weight_steps": True, "losses": taught(distillation)}
    statistics: dict[str, Any] = {"epochs": 0, "start": average, "reestimate_batches": WHOLE_SET}
    size = averaging.batch_size
    return (
        Stage(
            name="retrain",
            epochs=int(averaging.schedule.minima(averaging.epochs)[-1]),
            start=begin,
            lr=averaging.lr,
            schedule=averaging.schedule,
            captures=captures,
            keep_captures=averaging.keep_captures,
            batch_size=size,
            **trained,
        ),
        Stage(name="average", batch_size=size, **statistics),
        Stage(name="requantized", policy=chosen, batch_size=size, **statistics),
        stage_of(
            name="fine-tuned",
            epochs=averaging.tune_epochs,
            start=average,
            lr=averaging.lr / 10,
            schedule=Exponential(0.1),
            batch_size=size,
            **trained,
        ),
    )


def capture_epochs(averaging: Averaging) -> tuple[int, ...]:
    """After which epochs a net is captured: the last minima, or those from epoch 40 on.

    Raises ValueError where there are not so many, or where they do not fall on whole epochs.
    """
    minima, number, epochs = averaging.schedule.minima(averaging.epochs), averaging.num_captures, averaging.epochs
    if any(place != int(place) for place in minima):
        raise ValueError(
            f"a cycle with parts of {averaging.schedule.part:g} epochs: captures need whole ones: cycle 6 and between 2"
        )
    places = [int(place) for place in minima]
    usable = [place for place in places if averaging.captures == "late" or place >= EARLY]
    if not 1 <= number <= len(usable):
        raise ValueError(
            f"num_captures={number} {averaging.captures} ones of {epochs} epochs: the rate has {len(usable)} such "
            f"minima (all: {', '.join(map(str, places)) or 'none'}): give averaging another epochs= or num_captures="
        )
    return tuple(usable[-number:] if averaging.captures == "late" else usable[:number])


RECIPES.add("sqwa", Registration(stages=sqwa_stages, model="resnet20", data="digits"))
RECIPES.add("sqwa-resnet20-cifar100", Registration(stages=sqwa_stages, model="resnet20", data="cifar100"))
RECIPES.add(
    "sqwa-mobilenet_v2-cifar100",
    Registration(stages=sqwa_stages, model="mobilenet_v2_cifar", model_arguments={"variant": "saq"}, data="cifar100"),
)
RECIPES.add(
    "sqwa-resnet18-imagenet",
    Registration(
        stages=sqwa_stages,
        model="resnet18",
        data="imagenet",
        settings={
            "pretraining.schedule": "sqwa-imagenet", "averaging.epochs": 238, "averaging.lr": 4e-2,
            "averaging.lowest": 4e-5, "averaging.tune_epochs": 5, "averaging.batch_size": 1024,
        },
    ),
)  # fmt: skip
RECIPES.add(
    "sqwa-preresnet8-digits",
    Registration(
        stages=sqwa_stages,
        model="preresnet8",
        data="digits",
        settings={"pretraining.schedule": "digits", "averaging.epochs": 40, "averaging.batch_size": 64},
    ),
)
