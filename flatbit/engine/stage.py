"""One stage of a run: quantize, calibrate, train, capture, re-estimate, evaluate; files and numbers of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import Batches, Data
from ..files import save
from ..metrics.evaluation import Metrics, evaluate
from ..metrics.health import constant_output, suspects
from ..quant.calibrate import calibrate_
from ..quant.convert import quantize_
from ..quant.cost import cost
from ..quant.layers import has_quantized_layers, quantizers_of
from ..train.averaging import freeze_weight_steps_, requantize_
from ..train.batchnorm import reestimate_batchnorm_
from ..train.objective import objective_of
from ..train.optimizers import make_optimizer
from ..train.sharpness import SharpnessAware
from .checkpoint import load_checkpoint, restore_checkpoint_, save_checkpoint
from .checks import average_for
from .loop import Position, failure, train
from .recipe import AVERAGE, Stage
from .start import TEST_BATCH

FEW_STEPS = 16
"""So few updates (a smoke run's) prove nothing of a net that gives one answer, or of a loss that is high."""
PATIENCE = 3
"""So many epochs in a row, at least, a net may give one answer for all images before it counts as collapsed."""
DIVERGED, GUESSING = 20.0, 2.0
"""An epoch's mean loss above 20 times that of the stage's first update (or of guessing, about 2) is no training."""


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
    average = average_for(model, stage)
    position = Position()
    kept = load_checkpoint(out / "checkpoint")
    if kept is not None and kept["position"].pop("stage") == stage.name:
        position = Position(**kept["position"])
        restore_checkpoint_(kept, model, optimizer, average)

    seen: dict[int, Metrics] = {}

    def score(numbers: dict[str, Any]) -> None:
        epoch = numbers["epoch"]
        _check_alive(model, stage, next(iter(test))[0], numbers, position)
        if epoch % stage.evaluate_every and epoch not in (stage.epochs, *stage.captures, *_around(stage)):
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

    if teacher is not None:
        _check_teacher(teacher, stage, batches)
    objective = objective_of(
        stage.objective, distillation=stage.distillation, teacher=teacher, lipschitz=stage.lipschitz
    )
    history = train(
        model, stage, batches, optimizer, objective=objective, position=position, after_epoch=score, save=save_now
    ).history
    if isinstance(optimizer, SharpnessAware):
        optimizer.close()
    last = seen.get(stage.epochs) or evaluate(model, test, description=f"{stage.name}, last")
    changes = _frozen(stage, history, last.score[0])
    if stage.reestimate_batches:
        last, change = _reestimated(model, stage, batches, test, last)
        changes.append(change)
    entry = _entry(model, data, last, history) | {"batchnorm": changes}
    save(model, out / "stages" / f"{stage.name}.safetensors")
    if average is not None:
        average.apply_(model)
        save(model, out / "stages" / f"{stage.name}{AVERAGE}.safetensors")
    return entry


def quantize_for_(model: nn.Module, stage: Stage, batches: Batches) -> None:
    """Bring a stage's start to what its policy says, in place: quantize and calibrate, or re-quantize.

    A quantized start (an average, or a net of the same policy) keeps the steps and clips of every
    quantizer that its new policy does not change; where it has new ones for activations, all are calibrated.
    """
    if stage.policy is not None and has_quantized_layers(model):
        requantize_(model, stage.policy, strict=stage.strict)
    elif stage.policy is not None:
        quantize_(model, stage.policy, strict=stage.strict)
    if not all(quantizer.calibrated for _, quantizer in quantizers_of(model)):
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


@torch.no_grad()
def _check_teacher(teacher: nn.Module, stage: Stage, batches: Batches) -> None:
    """Raise ValueError where the teacher cannot read the stage's images."""
    x, _ = next(iter(batches))
    try:
        teacher(x[:2])
    except RuntimeError as error:
        raise ValueError(
            f"stage {stage.name!r}: its teacher {type(teacher).__name__} cannot read images of shape "
            f"{tuple(x.shape[1:])}: {str(error).partition(chr(10))[0]}"
        ) from error


def _check_alive(model: nn.Module, stage: Stage, x: Tensor, numbers: dict[str, Any], position: Position) -> None:
    """Raise TrainingError where an epoch left weights not finite, a huge loss, or one answer for all images x.

    A net may pass through the last, at few bits, and come back: it has a tenth of the stage's epochs, and until
    the stage's end at most.
    """
    epoch, loss, first_loss = numbers["epoch"], numbers["train_loss"], position.first_loss or 0.0
    if found := suspects(model):
        raise failure(model, stage, x, f"after epoch {epoch} {found[0].layer} is not finite")
    if stage.max_steps is not None and stage.max_steps <= FEW_STEPS:
        return
    position.stuck = position.stuck + 1 if constant_output(model, x) else 0
    if position.stuck and (position.stuck >= max(PATIENCE, stage.epochs // 10) or epoch == stage.epochs):
        raise failure(model, stage, x, f"after epoch {epoch} the net still gives every image the same answer")
    if loss > DIVERGED * max(first_loss, GUESSING):
        raise failure(model, stage, x, f"in epoch {epoch} the mean loss is {loss:.3g}, {first_loss:.3g} at first")


def _reestimated(
    model: nn.Module, stage: Stage, batches: Batches, test: Batches, before: Metrics
) -> tuple[Metrics, dict[str, Any]]:
    """The metrics after re-estimating batch-norm statistics, in place, and what that changed."""
    used = reestimate_batchnorm_(model, batches, stage.reestimate_batches)
    after = evaluate(model, test, description=f"{stage.name}, statistics re-estimated")
    scores = {"before": before.score[1], "after": after.score[1]}
    return after, {"step": f"re-estimated from {used} batches"} | scores


def _around(stage: Stage) -> tuple[int, ...]:
    """The epochs before and after batch norms are frozen."""
    epoch = stage.freeze_batchnorm
    return () if epoch is None else (epoch, epoch + 1)


def _frozen(stage: Stage, history: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """The score before and after the first epoch with frozen batch norms."""
    epoch = stage.freeze_batchnorm
    if epoch is None or not 0 < epoch < len(history):
        return []
    before, after = (numbers[f"test_{metric}"] for numbers in history[epoch - 1 : epoch + 1])
    return [{"step": f"frozen, epoch {epoch + 1} trained so", "before": before, "after": after}]


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
