"""What a plan refuses before any training: policies, captures, losses, teachers and files that cannot be."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from .. import models
from ..data.batches import Data
from ..device import device_of
from ..files import load
from ..modes import modes_kept
from ..quant.convert import apply_specs_, resolved_specs
from ..quant.grid import Grid
from ..quant.quantizer import MAX_BITS
from ..quant.quantizers import make_quantizer
from ..quant.site import Site
from ..quant.spec import LayerSpec, TensorSpec
from ..reference import From
from ..train.averaging import QuantizedAverage
from ..train.mean_grid import capacity, mean_spec
from ..train.optimizers import make_optimizer
from .fit import build_model
from .recipe import Recipe, Stage
from .sources import Checkpoint, model_file

SAMPLE = torch.linspace(-1, 1, 64).reshape(8, 8)


def specs_of(model: nn.Module, recipe: Recipe, stage: Stage) -> dict[str, LayerSpec]:
    """What each layer gets in a stage, and that the stage's parts can act on it.

    Args:
        model: float, on any device; left as it is.
        recipe: the stage's.
        stage: one of its stages.

    Raises:
        ValueError: layers that the policy refuses, captures without an average, saq without quantized weights,
            a loss term that could not act, an optimizer whose step needs a closure.
    """
    specs = _resolved(model, recipe, stage)
    _check_sharpness(stage, specs)
    quantized = copy.deepcopy(model)
    apply_specs_(quantized, dict(specs))
    if stage.captures:
        _check_captures(quantized, stage, specs)
    if stage.epochs:
        _check_losses(quantized, stage)
        _check_optimizer(quantized, stage)
    return specs


def _resolved(model: nn.Module, recipe: Recipe, stage: Stage) -> dict[str, LayerSpec]:
    """The specs of a stage: its policy's, or without one those of the average that it goes on with."""
    if stage.policy is not None:
        return resolved_specs(model, stage.policy, strict=stage.strict)[0]
    if stage.start.kind != "stage":
        return {}
    source = recipe.stage(stage.start.name)
    before = _resolved(model, recipe, source)
    if stage.start.average:
        return _averaged_specs(before, len(source.captures))
    return before if any(spec.averaged_from for spec in before.values()) else {}


def _averaged_specs(specs: Mapping[str, LayerSpec], count: int) -> dict[str, LayerSpec]:
    """The specs of the average of so many captures: weights on their grid of step/n, as ``QuantizedAverage`` has it."""
    made = {}
    for name, spec in specs.items():
        for slot, tensor in spec.weights.items():
            before = spec.averaged_from.get(slot, tensor)
            if before.bits < MAX_BITS:
                spec = spec.with_tensor(slot, mean_spec(_grid(tensor), count))
                spec = replace(spec, averaged_from=dict(spec.averaged_from) | {slot: before})
        made[name] = spec
    return made


def _check_sharpness(stage: Stage, specs: Mapping[str, LayerSpec]) -> None:
    """Raise ValueError where a stage would move quantized weights and has none."""
    if stage.sharpness is None or stage.sharpness.method not in ("saq", "asaq"):
        return
    if not any(spec.weights for spec in specs.values()):
        raise ValueError(
            f"stage {stage.name!r}: {stage.sharpness.method} moves quantized weights, and this stage has none: "
            "take sam or asam, or a policy with weights"
        )


def _check_losses(model: nn.Module, stage: Stage) -> None:
    """Raise ValueError for a term that could not act on the stage's net."""
    for term in stage.losses:
        try:
            term.check(model)
        except ValueError as error:
            raise ValueError(f"stage {stage.name!r}: {error}") from error


def _check_optimizer(model: nn.Module, stage: Stage) -> None:
    """Raise ValueError for an optimizer that the training loop cannot step."""
    try:
        make_optimizer(model, stage.optimizer, lr=stage.lr or 0.0, weight_decay=stage.weight_decay)
    except ValueError as error:
        raise ValueError(f"stage {stage.name!r}: {error}") from error


def _check_captures(model: nn.Module, stage: Stage, specs: Mapping[str, LayerSpec]) -> None:
    """Raise ValueError for steps that would move between captures, or an average of more than 8 bits."""
    averaged = QuantizedAverage(model).quantizers()
    by_tensor = {(q.site.layer, q.site.name): specs[q.site.layer].tensors[q.site.name] for q in averaged}
    for (layer, name), spec in by_tensor.items():
        if _follows_the_weight(spec):
            site = Site(layer=layer, role="weight", tensor=name)
            raise ValueError(
                f"stage {stage.name!r}: the step of {site} follows the weight "
                f"({spec}), and captures must share one grid: take a method that keeps its step, or no captures"
            )
    most = min((capacity(_grid(spec)) for spec in by_tensor.values()), default=None)
    if most is not None and most < len(stage.captures):
        raise ValueError(
            f"stage {stage.name!r}: the average of {len(stage.captures)} captures takes more than 8 bits somewhere, "
            f"{most} captures fit: take fewer of them, or fewer bits"
        )
    learned = next((q.site for q in averaged if any(True for _ in q.parameters())), None)
    if learned is not None and not stage.fixed_weight_steps:
        raise ValueError(
            f"stage {stage.name!r}: the step of {learned} is learned, and captures must share one grid: "
            "give the stage fixed_weight_steps=True"
        )


def _grid(spec: TensorSpec) -> Grid:
    """The grid of a weight's spec, at a step that means nothing."""
    quantizer = make_quantizer(spec, Site(role="weight"))
    quantizer.observe_(SAMPLE)
    return quantizer.grid(SAMPLE)


def _follows_the_weight(spec: TensorSpec) -> bool:
    """Whether a weight's grid is computed from it at each step, so that it moves as the weight does."""
    quantizer = make_quantizer(spec, Site(role="weight"))
    quantizer.observe_(SAMPLE)
    one, other = quantizer.grid(SAMPLE), quantizer.grid(3 * SAMPLE)
    kept = (one.offset, one.low, one.high) == (other.offset, other.low, other.high)
    return not kept or not torch.equal(one.step, other.step)


def check_steps(stage: Stage, steps: int, num_samples: int, *, begin: int = 0) -> None:
    """Raise ValueError where an epoch from ``begin`` on has fewer mini-batches, ``steps`` at most, than an update."""
    steps = min(steps, stage.max_steps or steps)
    largest = max((stage.batches_per_update(epoch) for epoch in range(begin, stage.epochs)), default=0)
    if steps < largest:
        raise ValueError(
            f"stage {stage.name!r}: an epoch of {num_samples} samples has {steps} mini-batches, fewer than one "
            f"update takes ({largest}): lower batch_size or the accumulation"
        )


def check_sources(model: nn.Module, recipe: Recipe, data: Data, checkpoint: Checkpoint | None) -> None:
    """Raise ValueError for a start or a teacher that is missing or does not fit, or a teacher that nobody trained.

    A builder of the user's may load weights itself; one of ours does not.
    """
    has_weights = checkpoint is not None or recipe.model not in models.MODELS.names()
    for stage in recipe.stages:
        if stage.start.kind == "file":
            with torch.random.fork_rng(devices=[]):
                Checkpoint(path=model_file(stage.start)).load_(build_model(recipe, data))
        for term in stage.losses:
            for source in term.teachers():
                if source.kind == "file":
                    alike = model if term.mimics else None
                    _check_teacher(source, f"stage {stage.name!r}: its teacher {source}", alike, data)
                elif not has_weights and not _is_trained(recipe, source):
                    raise ValueError(
                        f"stage {stage.name!r} learns from {source}, which is untrained: give its {term.name} another "
                        "teacher, the recipe a stage that trains before it, or the run a --checkpoint"
                    )


def _is_trained(recipe: Recipe, source: From) -> bool:
    """Whether the stage that a reference names, or one that it comes from, has epochs or starts from a file."""
    while source.kind == "stage":
        stage = recipe.stage(source.name)
        if stage.epochs:
            return True
        source = stage.start
    return source.kind == "file"


def _check_teacher(source: From, where: str, student: nn.Module | None, data: Data) -> None:
    """Raise ValueError where a teacher cannot read the data's images, or answers in another shape than its student."""
    with torch.random.fork_rng(devices=[]):
        teacher = load(model_file(source))
    try:
        answers = _shape_of_answers(teacher, data)
    except RuntimeError as error:
        raise ValueError(
            f"{where} ({type(teacher).__name__}) cannot read images of shape {data.image_shape}: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error
    if student is not None and answers != (expected := _shape_of_answers(student, data)):
        raise ValueError(
            f"{where} answers with shape {answers}, the net with {expected}: take one of the same classes and output "
            "size"
        )


@torch.no_grad()
def _shape_of_answers(model: nn.Module, data: Data) -> tuple[int, ...]:
    """Of the answers to one image."""
    with modes_kept(model):
        model.eval()
        return tuple(model(torch.zeros(1, *data.image_shape, device=device_of(model))).shape)
