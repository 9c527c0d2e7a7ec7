"""Progressive quantization: fewer bits step by step, each net from the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..train.schedules import Cosine
from . import RECIPES, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How each net of the ladder is trained: SGD 0.9 with a cosine to 0.

    Attributes:
        epochs, lr, weight_decay, batch_size: of each.
    """

    epochs: int = 100
    lr: float = 0.01
    weight_decay: float = 1e-4
    batch_size: int = 128


def ladder(
    *,
    method: str = "uniq",
    activation_method: str | None = None,
    bits: tuple[int, ...] | int = (8, 4, 3, 2, 1),
    quantized: Literal["weights", "activations", "both"] = "both",
    pretraining: Pretraining | None = Pretraining(schedule="uniq-cifar"),
    training: Descent = Descent(),
) -> Stages:
    """Any method down a ladder of bits, 8, 4, 3, 2, 1 unless said otherwise.

    Each stage starts from the weights and batch norms of the one before and calibrates new steps; SGD
    0.9 with a cosine to 0. Nobody's published recipe: UNIQ takes the last of these steps (1 bit from 2),
    and it costs a ladder of runs.

    Args:
        method, activation_method: as ``flatbit.policy`` takes them; sqwa wants activation_method=pact.
        bits: of each stage, falling.
        quantized: weights, activations or both; the rest stays float.
        pretraining: of the float net; None measures the one that the run is given.
        training: of each stage.

    Raises:
        ValueError: no bits, or bits that do not fall; what the method does not have; a method of float activations.
    """
    rungs = [bits] if isinstance(bits, int) else list(bits)
    if not rungs or sorted(set(rungs), reverse=True) != rungs:
        raise ValueError(f"bits={rungs}: expected falling bit-widths, as [8, 4, 2]")
    if quantized == "weights" and activation_method is not None:
        raise ValueError(
            f"activation_method={activation_method} cannot act: quantized=weights leaves activations float"
        )
    stages = list(float_stages(pretraining))
    for number in rungs:
        w = FLOAT_BITS if quantized == "activations" else number
        a = FLOAT_BITS if quantized == "weights" else number
        stages.append(
            stage_of(
                name=f"{method}-w{w}a{a}",
                epochs=training.epochs,
                policy=policy(method, weights=w, activations=a, activation_method=activation_method),
                start=From.stage(stages[-1].name),
                lr=training.lr,
                schedule=Cosine(),
                weight_decay=training.weight_decay,
                batch_size=training.batch_size,
            )
        )
    return tuple(stages)


RECIPES.add("progressive", Registration(stages=ladder, model="preresnet20", data="digits"))
RECIPES.add(
    "progressive-preresnet8-digits",
    Registration(
        stages=ladder,
        model="preresnet8",
        data="digits",
        settings={"pretraining.schedule": "digits", "training.epochs": 20, "training.batch_size": 64},
    ),
)
