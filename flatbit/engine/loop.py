"""The one training loop: epochs of updates, with schedules, gradient accumulation, sharpness, progress and hooks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counting
from itertools import islice
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from .. import plain
from ..data.batches import Batches
from ..data.pairs import pair_of
from ..device import device_of
from ..metrics.health import Finding, examine, explain, suspects
from ..progress import bar
from ..train.batchnorm import freeze_batchnorm_
from ..train.losses import LossTerm
from .checks import check_steps
from .recipe import Stage
from .record import EpochRecord
from .update import Update, running
from .way import EAGER, Way

CHECK_EVERY = 20  # updates between looks at the loss: each look waits for the device


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is not finite, or the net has collapsed.

    Attributes:
        findings: what the layers show, the first to go wrong first.
    """

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


@dataclass(kw_only=True, slots=True)
class Position:
    """Where a stage stands: the epoch and mini-batch to come next, and the sums of the epoch so far.

    ``first_loss`` is that of the stage's first look, ``stuck`` how many epochs in a row left one answer for all images.
    """

    epoch: int = 0
    step: int = 0
    first_loss: float | None = None
    stuck: int = 0
    loss: float = 0.0
    hits: float = 0.0
    terms: tuple[float, ...] = ()
    samples: int = 0
    seconds: float = 0.0
    history: tuple[EpochRecord, ...] = ()

    @property
    def begun(self) -> bool:
        """Whether there was an update yet."""
        return self.epoch > 0 or self.step > 0

    def add(self, sums: Sequence[float]) -> None:
        """Add sums over samples that are counted already: of the loss, of right answers, of each term."""
        loss, hits, *terms = sums
        self.loss, self.hits = self.loss + loss, self.hits + hits
        before = self.terms or (0.0,) * len(terms)
        self.terms = tuple(a + b for a, b in zip(before, terms, strict=True))
        if self.first_loss is None and self.samples and math.isfinite(self.loss):
            self.first_loss = self.loss / self.samples

    def close_epoch(self, lr: float, terms: Sequence[LossTerm]) -> EpochRecord:
        """The record of the finished epoch, whose last rate was ``lr``; the position moves to the next."""
        n = max(self.samples, 1)
        epoch = EpochRecord(
            epoch=self.epoch + 1,
            lr=float(lr),  # a tensor, or a schedule's NumPy number
            train_loss=self.loss / n,
            train_top1=100 * self.hits / n,
            losses={term.name: value / n for term, value in zip(terms, self.terms, strict=False)},
            images_per_s=n / max(self.seconds, 1e-9),
            seconds=self.seconds,
        )
        self.epoch, self.step, self.terms = self.epoch + 1, 0, ()
        self.loss, self.hits, self.samples, self.seconds = 0.0, 0.0, 0, 0.0
        return epoch

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return plain.to_plain(self)

    @classmethod
    def from_dict(cls, found: Any) -> Position:
        """The position that ``as_dict`` wrote. Raises ValueError."""
        return plain.from_plain(cls, found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """What the loop calls.

    Attributes:
        after_epoch: with the epoch's record, to which it may add; what it returns joins ``position.history``.
        save: after every epoch, and every ``save_every_s`` inside one, with weights that are finite.
        note: with a line where something took its time that is no training: compiling.
    """

    after_epoch: Callable[[EpochRecord], EpochRecord] = lambda epoch: epoch
    save: Callable[[Position], None] = lambda position: None
    save_every_s: float = 600.0
    note: Callable[[str], None] = lambda line: None


def train(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    losses: Sequence[LossTerm] | None = None,
    position: Position | None = None,
    hooks: Hooks = Hooks(),
    way: Way = EAGER,
) -> Position:
    """Train a model through a stage, in place.

    Args:
        model: quantized and calibrated as the stage wants it, on its device.
        batches: of the training split; their order is a function of (seed, epoch, step).
        optimizer: over the model's parameter groups, plain or ``SharpnessAware``; its lr is set at every update.
        losses: the stage's own terms, with the networks that they ask; None where they ask none.
        position: where to go on; None for the beginning.
        hooks: what to call after each epoch, and to save.
        way: how updates are run.

    Returns:
        The position at the end, with the history.

    Raises:
        TrainingError: the loss is NaN or infinite.
        EngineError: the device, the model or the optimizer cannot do it in this way.
        ValueError: an epoch without a single update; labels that are no whole numbers, or do not fit the logits.
    """
    position = position or Position()
    steps = min(len(batches), stage.max_steps or len(batches))
    check_steps(stage, steps, batches.num_samples, begin=position.epoch)
    way.check(device_of(model))
    update = Update(model, stage, stage.losses if losses is None else losses, optimizer, way, note=hooks.note)
    saved = time.monotonic()
    with bar("loss", "top1", "rate") as progress, running(model, way):
        task = progress.add_task(stage.name, total=stage.epochs * steps, loss="", top1="", rate="")
        while position.epoch < stage.epochs:
            for _ in _updates(update, batches, position, steps):
                _show(progress, task, position, steps)
                if time.monotonic() - saved > hooks.save_every_s and not suspects(model):  # else the next loss stops it
                    hooks.save(position)
                    saved = time.monotonic()
            epoch = hooks.after_epoch(position.close_epoch(optimizer.param_groups[0]["lr"], update.terms))
            position.history = (*position.history, epoch)
            hooks.save(position)
    return position


def _updates(update: Update, batches: Batches, position: Position, steps: int) -> Iterator[None]:
    """Yield after updates of the rest of one epoch; position follows."""
    model, stage = update.model, update.stage
    model.train()
    if stage.freeze_batchnorm is not None and position.epoch >= stage.freeze_batchnorm:
        freeze_batchnorm_(model)
    size = stage.batches_per_update(position.epoch)
    steps -= steps % size  # an update takes all its mini-batches
    every = looks_every(update.device)
    started = time.monotonic()
    where, stream = f"stage {stage.name!r}: a batch", batches.epoch(position.epoch, position.step)
    pairs = (pair_of(batch, where) for batch in stream)
    taken = list(islice(pairs, size))
    for count in counting(1):
        if position.step >= steps or len(taken) < size:
            return  # an epoch may end early, where batches could not be read
        update(taken, stage.lr_at(position.epoch + position.step / steps))
        x = taken[-1][0]
        position.step += size
        position.samples += sum(len(y) for _, y in taken)
        taken = list(islice(pairs, size)) if position.step < steps else []
        if count % every == 0 or len(taken) < size:
            sums = update.tally()
            position.seconds += time.monotonic() - started
            started = time.monotonic()
            _settle(model, stage, position, sums, x)
            yield


def looks_every(device: torch.device) -> int:
    """Updates between looks at the sums: a look waits for the device, but on the CPU."""
    return 1 if device.type == "cpu" else CHECK_EVERY


def _settle(model: nn.Module, stage: Stage, position: Position, sums: list[float], x: Tensor) -> None:
    """Bring the position up to date. Raises TrainingError, with what inputs x show, where the loss is not finite."""
    position.add(sums)
    if not math.isfinite(position.loss):
        where = f"in epoch {position.epoch + 1}, step {position.step}"
        raise failure(model, stage, x, f"the loss is not finite {where}")


def failure(model: nn.Module, stage: Stage, x: Tensor, what: str) -> TrainingError:
    """The error of a stage that cannot go on, with the likely cause as the layers show it on inputs x."""
    findings = examine(model, x)
    settings = [f"lr {stage.lr:g}"]
    settings += [f"rho {stage.sharpness.rho:g}"] if stage.sharpness is not None else []
    settings += [f"{term.name} {term.weight:g}" for term in stage.losses if term.name != "cross_entropy"]
    cause = explain(findings) if findings else f"{' or '.join(settings)} is too high"
    return TrainingError(f"stage {stage.name!r}: {what} ({', '.join(settings)}): {cause}", findings)


def _show(progress: Progress, task: TaskID, position: Position, steps: int) -> None:
    n = max(position.samples, 1)
    progress.update(
        task,
        completed=position.epoch * steps + position.step,
        loss=f"loss {position.loss / n:.3f}",
        top1=f"top1 {100 * position.hits / n:.1f}",
        rate=f"{n / max(position.seconds, 1e-9):,.0f} img/s",
    )
