"""The quickstart: one small network on real digits, from float to 1 bit, by FAQ and UNIQ."""

from __future__ import annotations

from typing import Any

from ..engine.recipe import Stage
from ..quant.presets import policy
from ..reference import From
from ..train.optimizers import Adam
from ..train.schedules import Cosine
from . import RECIPES, Registration, Stages


def digits_down_to_1_bit(*, epochs: int = 20) -> Stages:
    """A pre-activation ResNet-8 on digits: float, FAQ at 8 and 4 bits, UNIQ at 4, 2 and 1.

    Conventions as the papers': ``flatbit.policy("faq" | "uniq")``. FAQ and UNIQ start from the float
    net, 1 bit from the 2-bit net. Lengths and rates are fitted to a set of 1,347 images.
    """

    def quantized(method: str, bits: int, start: str, **settings: Any) -> Stage:
        chosen = policy(method, weights=bits, activations=bits)
        name = f"{method}-w{bits}a{bits}"
        return Stage(name=name, policy=chosen, start=From.stage(start), batch_size=64, **settings)

    sgd = {"epochs": epochs, "lr": 0.01, "schedule": Cosine(), "weight_decay": 1e-4}
    adam = {"optimizer": Adam(), "lr": 0.004, "schedule": Cosine(warmup=3, warmup_factor=0.25)}
    return (
        Stage(name="float", epochs=epochs, lr=0.1, schedule=Cosine(), weight_decay=5e-4, batch_size=64),
        quantized("faq", 8, "float", epochs=2, lr=1e-3),
        quantized("faq", 4, "float", **sgd),
        quantized("uniq", 4, "float", **sgd),
        quantized("uniq", 2, "float", **sgd | {"epochs": 2 * epochs}),
        quantized("uniq", 1, "uniq-w2a2", epochs=2 * epochs, **adam),
    )


RECIPES.add("quickstart", Registration(stages=digits_down_to_1_bit, model="preresnet8", data="digits"))
