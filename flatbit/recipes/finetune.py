"""Fine-tune any model of any data set under any policy: what ``flatbit quantize`` runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..engine.recipe import Stage
from ..quant.policy import Policy
from ..quant.presets import policy
from ..quant.spec import FLOAT_BITS
from ..reference import From
from ..search.assignment_file import assigned, read_assignment
from ..train.losses.teacher import Distillation, taught
from ..train.schedules import Cosine
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
    """

    placement: Literal["input", "output"] | None = None
    first_last_bits: int | None = None
    image_bits: int | None = None
    first: str | None = None
    last: str | None = None
    leave_float: tuple[str, ...] = ()
    strict: bool = True
    assignment: str | None = None

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
        )
        if self.first or self.last:
            made = made.first_last(first=self.first, last=self.last)
        for pattern in self.leave_float:
            made = made.override(pattern, weights=FLOAT_BITS, activations=FLOAT_BITS)
        return made if self.assignment is None else assigned(made, read_assignment(Path(self.assignment)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """How the net is fine-tuned: SGD 0.9 with a cosine to 0, decay 1e-4.

    Attributes:
        epochs: 0 only calibrates.
        lr, batch_size: of it.
    """

    epochs: int = 5
    lr: float = 0.01
    batch_size: int = 128


def finetuned(
    *,
    policy: str = "uniq",
    weights: int = 4,
    activations: int = 4,
    layers: Layers = Layers(),
    training: Descent = Descent(),
    distillation: Distillation | None = None,
) -> Stages:
    """Measure a model in float, calibrate it, fine-tune it with SGD and a cosine to 0.

    Nobody's published recipe: a sound default for a network that has one. Stages: ``float`` (measured,
    not trained), ``calibrated`` (steps from data, batch-norm statistics re-estimated), ``fine-tuned``.

    Args:
        policy: a name of ``flatbit list policies``.
        layers: which of them, where.
        training: of the last stage; 0 epochs only calibrate.
        distillation: learn from a teacher, as from the float net, ``distillation.teacher=stage:float``, with the
            labels or, at weight 1, without them; None learns from labels alone.

    Raises:
        ValueError: a teacher where nothing is trained.
    """
    common: dict[str, Any] = {
        "policy": layers.policy(policy, weights, activations),
        "start": From.stage("float"),
        "batch_size": training.batch_size,
        "strict": layers.strict,
    }
    measured = Stage(name="float", epochs=0)
    calibrated = Stage(name="calibrated", epochs=0, reestimate_batches=STATISTICS_BATCHES, **common)
    if not training.epochs:
        if distillation is not None:
            raise ValueError("distillation cannot act: training.epochs=0 only calibrates")
        return measured, calibrated
    tuned = Stage(
        name="fine-tuned",
        epochs=training.epochs,
        lr=training.lr,
        schedule=Cosine(),
        weight_decay=1e-4,
        losses=taught(distillation),
        **common,
    )
    return measured, calibrated, tuned


RECIPES.add("finetune", Registration(stages=finetuned, model="resnet20", data="digits"))
