"""One stage of a run: prepare, train, measure, keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import plain
from ..data.batches import Batches, Data
from ..device import device_of
from ..files import save
from ..metrics.evaluation import Metrics, evaluate
from ..metrics.health import constant_output, suspects
from ..progress import is_watched
from ..quant.calibrate import calibrate_
from ..quant.convert import quantize_
from ..quant.table import has_quantized_layers, quantizers_of
from ..reference import AVERAGE
from ..train.averaging import QuantizedAverage, freeze_weight_steps_, requantize_
from ..train.losses import LossTerm
from ..train.optimizers import make_optimizer
from ..train.sharpness import SharpnessAware
from .checkpoint import load_checkpoint, restore_checkpoint_, save_checkpoint
from .choice import choose_way
from .fit import TEST_BATCH
from .loggers import Callback, EpochEnd
from .loop import Hooks, Position, failure, train
from .recipe import Stage
from .record import EpochRecord
from .way import EAGER, FREE, Asked, Way
from .words import epoch_in_words

FEW_STEPS = 16
"""So few updates (a smoke run's) prove nothing of a net that gives one answer, or of a loss that is high."""
PATIENCE = 3
"""So many epochs in a row, at least, a net may give one answer for all images before it counts as collapsed."""
DIVERGED, GUESSING = 20.0, 2.0
"""An epoch's mean loss above 20 times that of the stage's first update (or of guessing, about 2) is no training."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """A stage in progress: its settings, and what it works with.

    Attributes:
        stage: its settings.
        model: quantized and calibrated as the stage wants it, on its device.
        losses: the stage's terms, with the networks that they ask.
        batches, test: of the training and test split.
        held_out: training samples that are not trained on, which epochs are scored on and choices made by; None where
            the test set is.
        optimizer: plain or sharpness-aware.
        average: what captures go into; None where the stage takes none.
        position: where training stands.
        way: how updates are run.
        out: the run's folder.
        note: called with a line where something took its time that is no training.
        callbacks: called after each epoch.
    """

    stage: Stage
    model: nn.Module
    losses: tuple[LossTerm, ...]
    batches: Batches
    test: Batches
    held_out: Batches | None
    optimizer: torch.optim.Optimizer
    average: QuantizedAverage | None
    position: Position
    way: Way
    out: Path
    note: Callable[[str], None]
    callbacks: tuple[Callback, ...] = ()

    @property
    def watched(self) -> Batches:
        """What epochs are scored on."""
        return self.test if self.held_out is None else self.held_out

    @property
    def num_updates(self) -> int:
        """Of the whole stage."""
        steps = len(self.batches)
        return self.stage.updates(min(steps, self.stage.max_steps or steps))


def prepare(
    model: nn.Module,
    stage: Stage,
    data: Data,
    out: Path,
    *,
    seed: int,
    losses: tuple[LossTerm, ...] | None = None,
    held_out: Data | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Work:
    """Quantize and calibrate a stage's model, in place; go on from the run's checkpoint where it is of this stage.

    Args:
        model: what the stage starts from, on its device.
        losses: the stage's terms with the networks that they ask; None where they ask none.
        out: the run's folder.
        held_out: data whose test samples are held out of the training ones.
        note: called with a line where something took its time that is no training.

    Returns:
        What is to be trained: eagerly, or in the way that it was begun in.
    """
    device = device_of(model)
    batches = data.train_batches(stage.batch_size, seed=seed, device=device)
    quantize_for_(model, stage, batches)
    work = Work(
        stage=stage,
        model=model,
        losses=stage.losses if losses is None else losses,
        batches=batches,
        test=data.test_batches(TEST_BATCH[data.task], device=device),
        held_out=None if held_out is None else held_out.test_batches(TEST_BATCH[data.task], device=device),
        optimizer=optimizer_of(model, stage),
        average=QuantizedAverage(model) if stage.captures else None,
        position=Position(),
        way=EAGER,
        out=out,
        note=note,
    )
    kept = load_checkpoint(out / "checkpoint", note)
    if kept is None or kept["stage"] != stage.name:
        return work
    restore_checkpoint_(kept, model, work.optimizer, work.average)
    return replace(work, position=Position.from_dict(kept["position"]), way=plain.from_plain(Way, kept["way"]))


def in_its_way(work: Work, asked: Asked = FREE) -> Work:
    """A stage with the way that its updates are run in: chosen where it begins, kept where it goes on.

    Raises ValueError for an engine or precision that the device has not, or others than the stage was begun with.
    """
    if work.position.begun:
        device = device_of(work.model)
        way = asked.way_on(work.way, device)
        if way != work.way:
            begun = f"begun with engine {work.way}, which {device.type} has not"
            work.note(f"{work.stage.name}: {begun}: it goes on with {way}")
        return replace(work, way=way)
    if not work.stage.epochs:
        return work
    way = asked.way(device_of(work.model))
    parts = (work.model, work.stage, work.losses, work.optimizer)
    return replace(work, way=way or choose_way(*parts, work.batches, eager=asked.simplest, note=work.note))


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


def optimizer_of(model: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    """The stage's optimizer, with sharpness around it where it has some."""
    base = make_optimizer(model, stage.optimizer, lr=stage.lr or 0.0, weight_decay=stage.weight_decay)
    if stage.sharpness is None:
        return base
    flat = stage.sharpness  # its shard is the loop's part: a closure for each
    return SharpnessAware(
        base, model, flat.method, flat.rho, eta=flat.eta, perturb=flat.perturb, batchnorm=flat.batchnorm
    )


def descend(work: Work) -> Metrics | None:
    """Train, look at the test set, capture; the position holds the history.

    Returns what the last epoch scored, where this process trained it. Raises TrainingError.
    """
    seen: dict[int, Metrics] = {}
    parts = (work.model, work.stage, work.batches, work.optimizer)
    train(*parts, losses=work.losses, position=work.position, hooks=hooks_of(work, seen), way=work.way)
    return after_last(work, seen)


def hooks_of(work: Work, seen: dict[int, Metrics]) -> Hooks:
    """What a stage wants of the loop: a look at the net after each epoch (into ``seen``), callbacks, checkpoints."""

    def save_now(position: Position) -> None:
        save_checkpoint(
            work.out / "checkpoint", work.model, work.optimizer, position, work.stage.name, work.way, work.average
        )

    stage = work.stage

    def look(epoch: EpochRecord) -> EpochRecord:
        looked = after_epoch(work, epoch, seen)
        if not is_watched():  # else a bar shows it
            work.note(epoch_in_words(stage, (*work.position.history, looked)))
        for callback in work.callbacks:
            callback(EpochEnd(out=work.out, stage=stage, epoch=looked, model=work.model))
        return looked

    return Hooks(after_epoch=look, save=save_now, note=work.note)


def after_last(work: Work, seen: dict[int, Metrics]) -> Metrics | None:
    """Take off what a stage's optimizer left in the net. Returns what the last epoch scored, if seen."""
    if isinstance(work.optimizer, SharpnessAware):
        work.optimizer.close()
    return seen.get(work.stage.epochs)


def after_epoch(work: Work, epoch: EpochRecord, seen: dict[int, Metrics]) -> EpochRecord:
    """Check that the net is alive, score it (into ``seen``) where the stage wants that, capture it.

    Raises TrainingError.
    """
    stage, number = work.stage, epoch.epoch
    _check_alive(work, epoch)
    if number not in stage.looks():
        return epoch
    metrics = seen[number] = evaluate(work.model, work.watched, description=f"{stage.name}, epoch {number}")
    if work.held_out is None:
        epoch = replace(epoch, test_top1=metrics.top1, test_loss=metrics.loss, test_miou=metrics.miou)
    else:
        epoch = replace(epoch, held_out=metrics.score[1])
    if work.average is None or number not in stage.captures:
        return epoch
    work.average.add()
    if stage.keep_captures:
        save(work.model, work.out / "stages" / f"{stage.name}@{number}.safetensors")
    return replace(epoch, capture=work.average.count)


def _check_alive(work: Work, epoch: EpochRecord) -> None:
    """Raise TrainingError where an epoch left weights not finite, a huge loss, or one answer for all images.

    A net may pass through the last, at few bits, and come back: it has a tenth of the stage's epochs, and until
    the stage's end at most.
    """
    model, stage, position = work.model, work.stage, work.position
    number, loss, first_loss = epoch.epoch, epoch.train_loss, position.first_loss or 0.0
    x = first_images(work.test)
    if found := suspects(model):
        raise failure(model, stage, x, f"after epoch {number} {found[0].layer} is not finite")
    if stage.max_steps is not None and stage.max_steps <= FEW_STEPS:
        return
    position.stuck = position.stuck + 1 if constant_output(model, x) else 0
    if position.stuck and (position.stuck >= max(PATIENCE, stage.epochs // 10) or number == stage.epochs):
        raise failure(model, stage, x, f"after epoch {number} the net still gives every image the same answer")
    if loss > DIVERGED * max(first_loss, GUESSING):
        raise failure(model, stage, x, f"in epoch {number} the mean loss is {loss:.3g}, {first_loss:.3g} at first")


def first_images(batches: Batches) -> Tensor:
    """x of the first batch."""
    return next(iter(batches))[0]


def keep(work: Work) -> None:
    """Leave ``stages/NAME.safetensors``, and with captures ``stages/NAME.average.safetensors``."""
    folder, name = work.out / "stages", work.stage.name
    save(work.model, folder / f"{name}.safetensors")
    if work.average is not None:
        work.average.apply_(work.model)
        save(work.model, folder / f"{name}{AVERAGE}.safetensors")
