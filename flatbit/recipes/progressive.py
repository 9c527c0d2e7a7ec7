"""Progressive quantization: fewer bits step by step, each net from the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from ..engine.recipe import Recipe, Stage
from ..quant.policy import FLOAT_BITS
from ..quant.presets import policy
from ..train.schedules import Cosine
from . import RECIPES, check_choice
from .float_net import float_stage


def progressive(
    *,
    name: str = "progressive",
    model: str = "preresnet20",
    data: str = "digits",
    model_arguments: Mapping[str, Any] | None = None,
    float_schedule: str = "uniq-cifar",
    float_epochs: int | None = None,
    method: str = "uniq",
    activation_method: str | None = None,
    bits: Sequence[int] = (8, 4, 3, 2, 1),
    quantized: Literal["weights", "activations", "both"] = "both",
    epochs: int = 100,
    lr: float = 0.01,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
) -> Recipe:
    """Any method down a ladder of bits, 8, 4, 3, 2, 1 unless said otherwise.

    Each stage starts from the weights and batch norms of the one before and calibrates new steps; SGD
    0.9 with a cosine to 0. Nobody's published recipe: UNIQ takes the last of these steps (1 bit from 2),
    and it costs a ladder of runs.

    Args:
        method, activation_method: as ``flatbit.policy`` takes them; sqwa wants activation_method=pact.
        bits: of each stage, falling.
        quantized: weights, activations or both; the rest stays float.
        epochs, lr, weight_decay, batch_size: of each stage.

    Raises:
        ValueError: no bits, or bits that do not fall; what the method does not have.
    """
    check_choice("quantized", quantized, ("weights", "activations", "both"))
    ladder = [bits] if isinstance(bits, int) else list(bits)
    if not ladder or sorted(set(ladder), reverse=True) != ladder:
        raise ValueError(f"bits={ladder}: expected falling bit-widths, as [8, 4, 2]")
    stages = [float_stage(float_schedule, float_epochs)]
    for number in ladder:
        w = FLOAT_BITS if quantized == "activations" else number
        a = FLOAT_BITS if quantized == "weights" else number
        stages.append(
            Stage(
                name=f"{method}-w{w}a{a}",
                epochs=epochs,
                policy=policy(method, weights=w, activations=a, activation_method=activation_method),
                start=stages[-1].name,
                lr=lr,
                schedule=Cosine(),
                weight_decay=weight_decay,
                batch_size=batch_size,
            )
        )
    return Recipe(name=name, model=model, model_arguments=dict(model_arguments or {}), data=data, stages=tuple(stages))


RECIPES.add("progressive", progressive)
_digits = partial(progressive, model="preresnet8", data="digits", float_schedule="digits", epochs=20, batch_size=64)
RECIPES.add("progressive-preresnet8-digits", partial(_digits, name="progressive-preresnet8-digits"))
