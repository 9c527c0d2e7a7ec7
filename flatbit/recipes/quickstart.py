"""The quickstart: one small network on real digits, from float to 1 bit, by FAQ and UNIQ."""

from __future__ import annotations

from ..engine.recipe import Recipe, Stage
from ..quant.presets import policy
from ..train.schedules import Cosine
from . import RECIPES


def quickstart(*, epochs: int = 20) -> Recipe:
    """A pre-activation ResNet-8 on digits: float, FAQ at 8 and 4 bits, UNIQ at 4, 2 and 1.

    Conventions as the papers': ``flatbit.policy("faq" | "uniq")``. FAQ and UNIQ start from the float
    net, 1 bit from the 2-bit net. Lengths and rates are fitted to a set of 1,347 images.
    """

    def quantized(method: str, bits: int, start: str, **settings: object) -> Stage:
        rules = policy(method, weights=bits, activations=bits)
        return Stage(name=f"{method}-w{bits}a{bits}", policy=rules, start=start, batch_size=64, **settings)  # type: ignore[arg-type]

    sgd = {"lr": 0.01, "schedule": Cosine(), "weight_decay": 1e-4}
    adam = {"epochs": 2 * epochs, "optimizer": "adam", "lr": 0.004, "schedule": Cosine(warmup=3, warmup_factor=0.25)}
    return Recipe(
        name="quickstart",
        model="preresnet8",
        data="digits",
        stages=(
            Stage(name="float", epochs=epochs, lr=0.1, schedule=Cosine(), weight_decay=5e-4, batch_size=64),
            quantized("faq", 8, "float", epochs=2, lr=1e-3),
            quantized("faq", 4, "float", epochs=epochs, **sgd),
            quantized("uniq", 4, "float", epochs=epochs, **sgd),
            quantized("uniq", 2, "float", epochs=2 * epochs, **sgd),
            quantized("uniq", 1, "uniq-w2a2", **adam),
        ),
        parameters={"epochs": epochs},
    )


RECIPES.add("quickstart", quickstart)
