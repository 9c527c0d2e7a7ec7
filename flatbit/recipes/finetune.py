"""Fine-tune any model of any data set under any policy: what ``flatbit quantize`` runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..engine.recipe import Stage
from ..quant.policy import Policy
from ..quant.presets import policy
from ..quant.quantizers import METHODS
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..search.assignment_file import assigned, read_assignment
from ..train.losses.teacher import Distillation, taught
from ..train.optimizers import SGD, Optimizer
from ..train.schedules import Cosine, Schedule
from . import RECIPES, Registration, Stages

STATISTICS_BATCHES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """Which layers are quantized where.

    Attributes:
        placement: of activations: at the layers' ``input``, or at the activations' ``output``; None for the paper's.
        first_last_bits, image_bits: of the first and last layer, and of the image, as ``flatbit.policy`` has them; None
            for the paper's. Both 8: every product has integer operands.
        first, last: the layers that read the image and that give the logits, where they are not those defined first
            and last.
        leave_float: layers to leave in float, by name or wildcard.
        strict: refuse a model with layers that cannot be quantized, or leave those float.
        assignment: a file of bits per layer, as ``flatbit search`` writes; what it does not name has the recipe's.
        activation_method: another method's quantizers for activations; None for the policy's.
        granularity: one weight step per ``tensor`` or per output ``channel``; None for the paper's.
        override: what changes for some layers, by a name with wildcards or an ``@`` role:
            ``{"layer4.*": {"weights": 4}}``; a later one wins.
    """

    placement: Literal["input", "output"] | None = None
    first_last_bits: int | None = None
    image_bits: int | None = None
    first: str | None = None
    last: str | None = None
    leave_float: tuple[str, ...] = ()
    strict: bool = True
    assignment: str | None = None
    activation_method: str | None = None
    granularity: Literal["tensor", "channel"] | None = None
    override: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def policy(self, name: str, weights: int, activations: int) -> Policy:
        """A policy that keeps to this. Raises ValueError for what is said of activations that are float."""
        said = {"placement": self.placement, "image_bits": self.image_bits}
        for setting, value in said.items():
            if value is not None and activations >= FLOAT_BITS:
                raise ValueError(f"layers.{setting}={value} cannot act: activations are float: leave it out")
        made = policy(
            name,
            weights=weights,
            activations=activations,
            placement=self.placement,
            first_last_bits=self.first_last_bits,
            image_bits=self.image_bits,
            activation_method=self.activation_method,
            granularity=self.granularity,
        )
        if self.first or self.last:
            made = made.first_last(first=self.first, last=self.last)
        for pattern in self.leave_float:
            made = made.override(pattern, weights=FLOAT_BITS, activations=FLOAT_BITS)
        for pattern, changes in self.override.items():
            made = made.override(pattern, **changes)
        return made if self.assignment is None else assigned(made, read_assignment(Path(self.assignment)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How the net is fine-tuned: SGD 0.9 with a cosine to 0, decay 1e-4.

    Attributes:
        epochs: 0 only calibrates.
        lr, batch_size, weight_decay, optimizer, schedule: of it.
        begin: what it starts from: the ``float`` net with new steps, the ``calibrated`` one that was measured, or a
            net of ``2-bit`` that is fine-tuned first, in the same way, where something has 1 bit.
    """

    epochs: int = 5
    lr: float = 0.01
    batch_size: int = 128
    weight_decay: float = 1e-4
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    begin: Literal["float", "calibrated", "2-bit"] = "float"


def finetuned(
    *,
    policy: str = "uniq",
    weights: int = 4,
    activations: int = 4,
    layers: Layers = Layers(),
    training: Descent = Descent(),
    distillation: Distillation | None = None,
    reestimate: bool = True,
) -> Stages:
    """Measure a model in float, calibrate it, fine-tune it with SGD and a cosine to 0.

    Nobody's published recipe: a sound default for a network that has one. Stages: ``float`` (measured,
    not trained), ``calibrated`` (steps from data, batch-norm statistics re-estimated), where it begins at 2 bits
    ``fine-tuned-wWaA``, and ``fine-tuned``.

    Args:
        policy: a name of ``flatbit list policies``.
        layers: which of them, where.
        training: of the last stage; 0 epochs only calibrate.
        distillation: learn from a teacher, as from the float net, ``distillation.teacher=stage:float``, with the
            labels or, at weight 1, without them; None learns from labels alone.
        reestimate: batch-norm statistics of the calibrated net, from training batches.

    Raises:
        ValueError: a teacher where nothing is trained; 2 bits first where nothing has 1, or the method has not both.
    """
    wanted = layers.policy(policy, weights, activations)
    common: dict[str, Any] = {"batch_size": training.batch_size, "strict": layers.strict}
    measured = Stage(name="float", epochs=0)
    calibrated = Stage(
        name="calibrated", epochs=0, policy=wanted, start=From.stage("float"),
        reestimate_batches=STATISTICS_BATCHES if reestimate else 0, **common,
    )  # fmt: skip
    if not training.epochs:
        if distillation is not None:
            raise ValueError("distillation cannot act: training.epochs=0 only calibrates")
        if training != Descent(epochs=0, lr=training.lr, batch_size=training.batch_size):
            raise ValueError("training cannot act: training.epochs=0 only calibrates: leave its other settings out")
        return measured, calibrated
    common |= {
        "epochs": training.epochs, "lr": training.lr, "schedule": training.schedule, "optimizer": training.optimizer,
        "weight_decay": training.weight_decay, "losses": taught(distillation),
    }  # fmt: skip
    stages, begin = (measured, calibrated), training.begin
    if begin == "2-bit":
        if not may_begin_at_two_bits(wanted):
            raise ValueError("training.begin=2-bit cannot act: nothing has 1 bit, or the method has no 2 bits")
        bits = max(weights, 2), max(activations, 2)
        begin = f"fine-tuned-w{bits[0]}a{bits[1]}"
        two = Stage(name=begin, policy=layers.policy(policy, *bits), start=From.stage("float"), **common)
        stages = (*stages, two)
    return (*stages, Stage(name="fine-tuned", policy=wanted, start=From.stage(begin), **common))


def may_begin_at_two_bits(wanted: Policy) -> bool:
    """Whether a policy has weights or activations of 1 bit, and its methods have 2 bits for them too."""
    method, activation_method = METHODS.get(wanted.base.method), METHODS.get(wanted.base.activation_method)
    pairs = (wanted.base.weights, method.weights), (wanted.base.activations, activation_method.activations)
    binary = [made for bits, made in pairs if bits == 1]
    return bool(binary) and all(made is not None and 2 in made.supported_bits for made in binary)


RECIPES.add("finetune", Registration(stages=finetuned, model="resnet20", data="digits"))
