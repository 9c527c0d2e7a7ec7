"""UNIQ: fine-tune from the float net with a cosine; 1 bit from the 2-bit net, with warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..engine.recipe import Stage
from ..quant.policy import Policy
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..train.optimizers import SGD, Adam
from ..train.schedules import Cosine
from . import RECIPES, Registration, Stages, stage_of
from .float_net import Pretraining, float_stages

WARMUP_LR = 0.001
IMAGENET_DECAY = {4: 1e-4, 3: 0.5e-4, 2: 0.25e-4, 1: 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How quantized nets are trained; the CIFAR-100 runs' settings by default.

    Attributes:
        epochs, batch_size: of each.
        weight_decay: a number, or one for each number of bits (ImageNet: 1e-4, .5e-4, .25e-4 and 0 for
            4, 3, 2 and 1); None for CIFAR's: 5e-4, and 0 with Adam at 1 bit.
        optimizer, lr: of the last stage; None for the paper's: SGD 0.9 at 0.01, Adam at 0.004 at 1 bit.
    """

    epochs: int = 350
    batch_size: int = 128
    weight_decay: float | Mapping[int, float] | None = None
    optimizer: Literal["sgd", "adam"] | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"training.lr={self.lr}: expected a positive number")
        if isinstance(self.weight_decay, Mapping) and not self.weight_decay:
            raise ValueError("training.weight_decay={}: expected a number, or one for each number of bits")

    def decay(self, bits: int, usual: float) -> float:
        """The weight decay at so many bits: the one given, the nearest of those given by bits, or the usual one."""
        given = self.weight_decay
        if isinstance(given, Mapping):
            return given[min(max(bits, min(given)), max(given))]
        return usual if given is None else given


@dataclass(frozen=True, kw_only=True, slots=True)
class OneBit:
    """What is apart at 1 bit (Table 6).

    Attributes:
        begin: what the 1-bit net starts from: the trained ``2-bit`` net, with new steps, or the ``float`` one.
        warmup: epochs at lr 0.001 before the main rate; 0 for none.
    """

    begin: Literal["2-bit", "float"] = "2-bit"
    warmup: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantizers:
    """Which quantizers (Tables 4 and 5).

    Attributes:
        method: ``lsq`` is Table 4's re-run of LSQ in this setting.
        step: UNIQ's first step: Table 5's ``optimal``, ``lsq``, 0.1 or 0.2.
        granularity: one weight step per output ``channel`` in the paper's ImageNet ResNets, first and last apart.
        gradient_scale: of the steps.
    """

    method: Literal["uniq", "lsq"] = "uniq"
    step: float | Literal["optimal", "lsq"] = "optimal"
    granularity: Literal["tensor", "channel"] = "tensor"
    gradient_scale: bool = True

    def __post_init__(self) -> None:
        if self.method == "lsq" and self.step != "optimal":
            raise ValueError(f"quantizers.step={self.step} cannot act: it is UNIQ's, and LSQ has its own first step")

    def policy(self, weights: int, activations: int) -> Policy:
        """UNIQ's convention; LSQ with first and last layer at 8 bits too."""
        uniq = self.method == "uniq"
        options: dict[str, Any] = {"start": self.step} if uniq else {}
        options["gradient_scale"] = self.gradient_scale
        return policy(
            "uniq-imagenet" if uniq and self.granularity == "channel" else self.method,
            weights=weights,
            activations=activations,
            granularity=None if uniq or weights == FLOAT_BITS else self.granularity,
            weight_options=options if weights < FLOAT_BITS else None,
            activation_options=options if activations < FLOAT_BITS else None,
        )


def uniq_stages(
    *,
    weights: int = 2,
    activations: int = 2,
    quantizers: Quantizers = Quantizers(),
    pretraining: Pretraining | None = Pretraining(schedule="uniq-cifar"),
    training: Descent = Descent(),
    one_bit: OneBit | None = None,
) -> Stages:
    """UNIQ at any bits (section 4; the CIFAR-100 runs' settings are the default; Tables 2 to 6).

    2 bits and more: SGD 0.9, lr 0.01, cosine to 0 over all epochs, no decay on steps, from the float
    net. 1 bit: Adam, lr 0.001 for 5 epochs, then 0.004 with a cosine over the rest, decay 0 (the
    authors' code asserts it; the paper prints 5e-4), from the trained 2-bit net with new steps;
    ``training.optimizer=sgd`` is the paper's other column, lr 0.001 then 0.01, decay 5e-4.

    Args:
        quantizers: UNIQ's, or LSQ's.
        pretraining: of the float net; None measures the one that the run is given.
        training: of the quantized nets.
        one_bit: of a 1-bit net; None for the paper's.

    Raises:
        ValueError: ``one_bit`` where nothing has 1 bit.
    """
    stages = list(float_stages(pretraining))
    if 1 not in (weights, activations):
        if one_bit is not None:
            raise ValueError(f"one_bit cannot act: no weight or activation of W{weights}/A{activations} has 1 bit")
        return (*stages, _trained(weights, activations, From.stage(stages[-1].name), quantizers, training))
    one_bit = one_bit or OneBit()
    if one_bit.begin == "2-bit":
        usual = Descent(epochs=training.epochs, batch_size=training.batch_size, weight_decay=training.weight_decay)
        bits = max(weights, 2), max(activations, 2)
        stages.append(_trained(*bits, From.stage(stages[-1].name), quantizers, usual))
    begin = From.stage(stages[-1].name)
    return (*stages, _trained(weights, activations, begin, quantizers, training, one_bit.warmup))


def _trained(
    weights: int, activations: int, begin: From, quantizers: Quantizers, training: Descent, warmup: int = 0
) -> Stage:
    """One quantized net."""
    binary = 1 in (weights, activations)
    adam = (training.optimizer or ("adam" if binary else "sgd")) == "adam"
    lr = training.lr if training.lr is not None else 0.004 if adam else 0.01
    return stage_of(
        name=f"{quantizers.method}-w{weights}a{activations}",
        epochs=training.epochs,
        policy=quantizers.policy(weights, activations),
        start=begin,
        optimizer=Adam() if adam else SGD(),
        lr=lr,
        schedule=Cosine(warmup=warmup, warmup_factor=WARMUP_LR / lr) if warmup else Cosine(),
        weight_decay=training.decay(min(weights, activations), 0.0 if binary and adam else 5e-4),
        batch_size=training.batch_size,
    )


_IMAGENET = {
    "pretraining.schedule": "imagenet", "training.epochs": 90, "training.batch_size": 256,
    "training.weight_decay": IMAGENET_DECAY,
}  # fmt: skip
_PER_CHANNEL = _IMAGENET | {"quantizers.granularity": "channel"}
RECIPES.add("uniq", Registration(stages=uniq_stages, model="preresnet32", data="digits"))
RECIPES.add("uniq-preresnet32-cifar100", Registration(stages=uniq_stages, model="preresnet32", data="cifar100"))
for _net in ("preresnet18", "preresnet34"):
    RECIPES.add(
        f"uniq-{_net}-imagenet", Registration(stages=uniq_stages, model=_net, data="imagenet", settings=_PER_CHANNEL)
    )
RECIPES.add(
    "uniq-mobilenet_v2-imagenet",
    Registration(
        stages=uniq_stages,
        model="mobilenet_v2",
        model_arguments={"variant": "uniq"},
        data="imagenet",
        settings=_IMAGENET,
    ),
)
RECIPES.add(
    "uniq-preresnet8-digits",
    Registration(
        stages=uniq_stages,
        model="preresnet8",
        data="digits",
        settings={"pretraining.schedule": "digits", "training.epochs": 20, "training.batch_size": 64},
    ),
)
