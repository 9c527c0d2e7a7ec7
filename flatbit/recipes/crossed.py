"""Crossed: one paper's grid, another's descent, a third's averaging, and the float net as teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..quant.policy import Policy
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..train.losses.teacher import Distillation, taught
from ..train.schedules import Cosine
from ..train.sharpness import Sharpness
from . import RECIPES, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages
from .sqwa import Averaging, averaged_stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How the quantized net is trained before any averaging: SGD 0.9 with a cosine to 0; lengths and rates are ours.

    Attributes:
        epochs, lr, weight_decay, batch_size: of it.
        begin: what is quantized first: the ``float`` net or, for a 1-bit net, a ``2-bit`` one that started from it.
    """

    epochs: int = 200
    lr: float = 0.01
    weight_decay: float = 1e-4
    batch_size: int = 128
    begin: Literal["float", "2-bit"] = "float"


def crossed_stages(
    *,
    weights: int = 2,
    activations: int = 2,
    grid: str = "uniq",
    pretraining: Pretraining | None = Pretraining(schedule="saq-cifar"),
    sharpness: Sharpness | None = Sharpness(method="saq", rho=0.1),
    averaging: Averaging | None = Averaging(epochs=40),
    distillation: Distillation | None = Distillation(teacher=From.stage("float")),
    training: Descent = Descent(),
) -> Stages:
    """UNIQ's grid, SAQ's descent, SQWA's averaging and distillation from the float net: no paper has tried it.

    Stages: ``float``; ``2-bit`` if asked for; ``quantized`` (sharpness, distillation, cosine); then
    ``retrain``, ``average``, ``requantized`` and ``fine-tuned`` as SQWA, with the learned steps of
    weights kept while nets are captured. Each part can be left out, for ablation; defaults of lr,
    epochs and rho are ours. First and last layer are as the grid's policy has them; of 8-bit ones the
    latent weights are averaged.

    Args:
        grid: a policy: uniq, saq, lsq; sqwa leaves activations to PACT. Averaging takes those whose weights keep
            their steps; the plan refuses others.
        pretraining: of the float net; None measures the one that the run is given.
        sharpness: of the ``quantized`` stage; None for plain SGD.
        averaging: as ``sqwa`` has it; None ends with the ``quantized`` stage.
        distillation: of all stages that train quantized nets; None for labels alone.
        training: of the ``quantized`` stage, and of ``2-bit``.

    Raises:
        ValueError: an unknown policy; a 2-bit start of more bits.
    """
    common: dict[str, Any] = {
        "epochs": training.epochs,
        "lr": training.lr,
        "schedule": Cosine(),
        "weight_decay": training.weight_decay,
        "batch_size": training.batch_size,
        "sharpness": sharpness,
        "losses": taught(distillation),
    }
    stages = list(float_stages(pretraining))
    if training.begin == "2-bit":
        begin = From.stage(stages[-1].name)
        stages.append(stage_of(name="2-bit", policy=_two_bit(grid, weights, activations), start=begin, **common))
    chosen = _policy(grid, weights, activations)
    stages.append(stage_of(name="quantized", policy=chosen, start=From.stage(stages[-1].name), **common))
    if averaging is not None:
        stages += averaged_stages(chosen, From.stage("quantized"), averaging, distillation)
    return tuple(stages)


def _policy(grid: str, weights: int, activations: int) -> Policy:
    """A policy; SQWA's, which has no activations, with PACT's."""
    method = "pact" if grid.startswith("sqwa") and activations < FLOAT_BITS else None
    return policy(grid, weights=weights, activations=activations, activation_method=method)


def _two_bit(grid: str, weights: int, activations: int) -> Policy:
    """The same at 2 bits. Raises ValueError unless something has 1 bit."""
    if 1 not in (weights, activations):
        raise ValueError(
            f"training.begin=2-bit with W{weights}/A{activations}: it is the start of 1-bit nets: training.begin=float"
        )
    return _policy(grid, *(2 if bits < FLOAT_BITS else bits for bits in (weights, activations)))


RECIPES.add("crossed", Registration(stages=crossed_stages, model="preresnet20", data="digits"))
RECIPES.add(
    "crossed-preresnet20-cifar100",
    Registration(stages=crossed_stages, model="preresnet20", model_arguments={"variant": "saq"}, data="cifar100"),
)
RECIPES.add(
    "crossed-preresnet8-digits",
    Registration(
        stages=crossed_stages,
        model="preresnet8",
        data="digits",
        settings={
            "pretraining.schedule": "digits", "training.epochs": 20, "training.batch_size": 64,
            "averaging.batch_size": 64,
        },
    ),
)  # fmt: skip
