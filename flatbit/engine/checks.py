"""What a run refuses before any training: policies, captures, teachers and weights that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .. import models
from ..data.batches import Data
from ..quant.calibrate import start_weights_
from ..quant.convert import quantize_
from ..quant.layers import quantized_layers
from ..quant.policy import Policy
from ..train.averaging import QuantizedAverage
from .recipe import AVERAGE, Recipe, Stage
from .start import arguments_of, digest_of, teacher_file


def check_policies(recipe: Recipe, data: Data) -> None:
    """Quantize the untrained model once by every stage's policy: what is refused is refused before any training."""
    for stage in recipe.stages:
        model = models.build(recipe.model, **arguments_of(recipe, data))
        if stage.policy is not None:
            quantize_(model, stage.policy, strict=stage.strict)
        _check_sharpness(model, stage, {earlier.name: earlier.policy for earlier in recipe.stages})
        if stage.captures:
            for name, layer in quantized_layers(model):
                start_weights_(name, layer)
            average_for(model, stage)


def _check_sharpness(model: nn.Module, stage: Stage, policies: Mapping[str, Policy | None]) -> None:
    """Raise ValueError where a stage would move quantized weights and has none."""
    start = stage.start or ""
    keeps_average = start.endswith(AVERAGE) and policies[start.removesuffix(AVERAGE)] is not None
    if stage.sharpness is None or stage.sharpness.method not in ("saq", "asaq") or keeps_average:
        return
    if not any(layer.spec.weight for _, layer in quantized_layers(model)):
        raise ValueError(
            f"stage {stage.name!r}: {stage.sharpness.method} moves quantized weights, and this stage has none: "
            "take sam or asam, or a policy with weights"
        )


def average_for(model: nn.Module, stage: Stage) -> QuantizedAverage | None:
    """What the stage's captures go into; None where it takes none.

    Raises ValueError for steps that would move between captures, or an average of more than 8 bits.
    """
    if not stage.captures:
        return None
    average = QuantizedAverage(model)
    if average.capacity is not None and average.capacity < len(stage.captures):
        raise ValueError(
            f"stage {stage.name!r}: the average of {len(stage.captures)} captures takes more than 8 bits somewhere, "
            f"{average.capacity} captures fit: take fewer of them, or fewer bits"
        )
    learned = next((q.site for q in average.quantizers() if any(True for _ in q.parameters())), None)
    if learned is not None and not stage.fixed_weight_steps:
        raise ValueError(
            f"stage {stage.name!r}: the step of {learned} is learned, and captures must share one grid: "
            "give the stage fixed_weight_steps=True"
        )
    return average


def check_teachers(recipe: Recipe, weights: str | Path | None) -> None:
    """Raise ValueError for a teacher that is not there, or that nobody trained, before any training.

    A builder of the user's may load weights itself; one of ours does not.
    """
    stages = {stage.name: stage for stage in recipe.stages}
    ours = recipe.model in models.MODELS.names()
    earlier: set[str] = set()
    for stage in recipe.stages:
        if stage.distillation is not None:
            teacher = stage.distillation.teacher
            name = stage.start if teacher == "start" else teacher
            if teacher != "start" and name not in earlier:
                teacher_file(teacher)
            elif ours and weights is None and not _is_trained(name, stages):
                raise ValueError(
                    f"stage {stage.name!r} learns from {teacher!r}, which is untrained: give its distillation another "
                    "teacher, the recipe a stage that trains before it, or the run --weights"
                )
        earlier |= {stage.name} | ({f"{stage.name}{AVERAGE}"} if stage.captures else set())


def _is_trained(name: str | None, stages: Mapping[str, Stage]) -> bool:
    """Whether the stage of that name, or one that it comes from, has epochs."""
    while name is not None:
        stage = stages[name.removesuffix(AVERAGE)]
        if stage.epochs:
            return True
        name = stage.start
    return False


def check_weights(record: dict[str, Any], weights: Path | None) -> None:
    """Raise ValueError where a run that was begun goes on with other weights than it started from."""
    begun = record.get("weights")
    if begun is None or (weights is not None and digest_of(weights) == begun["sha256"]):
        return
    given = weights if weights is not None else "no --weights"
    raise ValueError(f"{given}: this run started from {begun['file']}: give that, or another --out")
