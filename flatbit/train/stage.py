"""One stage of a run: quantize, calibrate, train, capture, re-estimate, evaluate; files and numbers of it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.batches import Batches, Data
from ..quant.calibrate import calibrate_
from ..quant.convert import quantize_
from ..quant.cost import cost
from ..quant.files import save
from ..quant.layers import quantized_layers
from .averaging import QuantizedAverage, averaged, freeze_weight_steps_, requantize_
from .batchnorm import reestimate_batchnorm_
from .checkpoint import load_checkpoint, restore_checkpoint_, save_checkpoint
from .evaluate import Metrics, evaluate
from .health import constant_output
from .loop import Position, failure, train
from .objective import objective_of
from .optimizers import make_optimizer
from .recipe import AVERAGE, Stage
from .sharpness import SharpnessAware
from .start import TEST_BATCH

BROKEN = 20.0
"""An epoch's mean loss above so many times that of guessing, ln(classes), is no training."""


def train_stage(
    model: nn.Module, stage: Stage, data: Data, out: Path, *, seed: int, teacher: nn.Module | None = None
) -> dict[str, Any]:
    """Take a model through a stage, in place; go on from the run's checkpoint where it is of this stage.

    Leaves ``stages/NAME.safetensors``, with captures also ``stages/NAME.average.safetensors``.

    Args:
        model: float, or an average that the stage re-quantizes or keeps.
        out: the run's folder.
        teacher: for the stage's distillation.

    Returns:
        The stage's entry of the record. Raises TrainingError where it diverges or collapses.
    """
    device = next(model.parameters()).device
    batches = data.train_batches(stage.batch_size, seed=seed, device=device)
    test = data.test_batches(TEST_BATCH[data.task], device=device)
    quantize_for_(model, stage, batches)
    optimizer = _optimizer(model, stage)
    average = _average(model, stage)
    position = Position()
    kept = load_checkpoint(out / "checkpoint")
    if kept is not None and kept["position"].pop("stage") == stage.name:
        position = Position(**kept["position"])
        restore_checkpoint_(kept, model, optimizer, average)

    seen: dict[int, Metrics] = {}

    def score(numbers: dict[str, Any]) -> None:
        _check_alive(model, stage, test, numbers, data.num_classes)
        epoch = numbers["epoch"]
        if epoch % stage.evaluate_every and epoch != stage.epochs and epoch not in stage.captures:
            return
        metrics = seen[epoch] = evaluate(model, test, description=f"{stage.name}, epoch {epoch}")
        metric, value = metrics.score
        numbers |= {"test_top1": metrics.top1, "test_loss": metrics.loss, f"test_{metric}": value}
        if average is not None and epoch in stage.captures:
            average.add()
            numbers["capture"] = average.count
            if stage.keep_captures:
                save(model, out / "stages" / f"{stage.name}@{epoch}.safetensors")

    def save_now(position: Position) -> None:
        save_checkpoint(out / "checkpoint", model, optimizer, position.as_dict() | {"stage": stage.name}, average)

    objective = objective_of(
        stage.objective, distillation=stage.distillation, teacher=teacher, lipschitz=stage.lipschitz
    )
    history = train(
        model, stage, batches, optimizer, objective=objective, position=position, after_epoch=score, save=save_now
    ).history
    if isinstance(optimizer, SharpnessAware):
        optimizer.close()
    last = seen.get(stage.epochs) or evaluate(model, test, description=f"{stage.name}, last")
    changes = []
    if stage.reestimate_batches:
        used = reestimate_batchnorm_(model, batches, stage.reestimate_batches)
        before, last = last, evaluate(model, test, description=f"{stage.name}, statistics re-estimated")
        change = {"before": before.score[1], "after": last.score[1]}
        changes = [{"step": f"re-estimated from {used} batches"} | change]
    entry = _entry(model, data, last, history) | {"batchnorm": _frozen(stage, history, last.score[0]) + changes}
    save(model, out / "stages" / f"{stage.name}.safetensors")
    if average is not None:
        average.apply_(model)
        save(model, out / "stages" / f"{stage.name}{AVERAGE}.safetensors")
    return entry


def quantize_for_(model: nn.Module, stage: Stage, batches: Batches) -> None:
    """Bring a stage's start to what its policy says, in place: quantize and calibrate, or re-quantize an average.

    A start that is quantized so already keeps its steps and clips.
    """
    if stage.policy is not None and averaged(model):
        requantize_(model, stage.policy, strict=stage.strict)
    elif stage.policy is not None and not any(True for _ in quantized_layers(model)):
        quantize_(model, stage.policy, strict=stage.strict)
        calibrate_(model, batches, stage.calibration_batches)
    if stage.fixed_weight_steps:
        freeze_weight_steps_(model)


def _optimizer(model: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    base = make_optimizer(
        model,
        stage.optimizer,
        lr=stage.lr,
        weight_decay=stage.weight_decay,
        momentum=stage.momentum,
        nesterov=stage.nesterov,
    )
    if stage.sharpness is None:
        return base
    settings = asdict(stage.sharpness)
    del settings["shard"]  # the loop's part: it gives a closure per shard
    return SharpnessAware(base, model, **settings)


def _average(model: nn.Module, stage: Stage) -> QuantizedAverage | None:
    """What the stage's captures go into. Raises ValueError where their average would take more than 8 bits."""
    if not stage.captures:
        return None
    average = QuantizedAverage(model)
    if average.capacity is not None and average.capacity < len(stage.captures):
        raise ValueError(
            f"stage {stage.name!r}: the average of {len(stage.captures)} captures takes more than 8 bits somewhere, "
            f"{average.capacity} captures fit: take fewer of them, or fewer bits"
        )
    return average


def _check_alive(model: nn.Module, stage: Stage, test: Batches, numbers: dict[str, Any], classes: int) -> None:
    """Raise TrainingError where an epoch (a whole one) has left a net that answers all images alike, or a huge loss."""
    if stage.max_steps is not None:
        return  # a few updates prove nothing either way
    x, _ = next(iter(test))
    if constant_output(model, x):
        raise failure(model, stage, x, f"after epoch {numbers['epoch']} the net gives every image the same answer")
    if numbers["train_loss"] > BROKEN * math.log(max(classes, 2)):
        raise failure(model, stage, x, f"in epoch {numbers['epoch']} the mean loss is {numbers['train_loss']:.3g}")


def _frozen(stage: Stage, history: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The score before and after the first epoch with frozen batch norms."""
    epoch = stage.freeze_batchnorm
    if epoch is None or not 0 < epoch < len(history):
        return []
    before, after = (numbers.get(f"test_{metric}") for numbers in history[epoch - 1 : epoch + 1])
    if before is None or after is None:  # not looked at: evaluate_every
        return []
    return [{"step": f"frozen after epoch {epoch}", "before": before, "after": after}]


def _entry(model: nn.Module, data: Data, last: Metrics, history: list[dict[str, Any]]) -> dict[str, Any]:
    costs = cost(model, data.image_shape)
    metric, _ = last.score
    return {
        "metric": metric,
        "test": last.as_dict(),
        "best_test": max((n[f"test_{metric}"] for n in history if f"test_{metric}" in n), default=None),
        "cost": {name: getattr(costs, name) for name in ("bitops", "macs", "params", "size_bytes")},
        "seconds": sum(numbers["seconds"] for numbers in history),
        "epochs": history,
    }
