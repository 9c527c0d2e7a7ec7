"""The one training loop: epochs of updates, with schedules, gradient accumulation, sharpness, progress and hooks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from .. import plain
from ..data.batches import VOID, Batch, Batches
from ..data.labels import class_indices
from ..data.pairs import pair_of
from ..metrics.health import Finding, examine, explain, suspects
from ..progress import bar
from ..train.batchnorm import freeze_batchnorm_
from ..train.losses import LossTerm, weighted_sum
from ..train.sharpness import SharpnessAware
from .checks import check_steps
from .recipe import Stage
from .record import EpochRecord

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
    """

    after_epoch: Callable[[EpochRecord], EpochRecord] = lambda epoch: epoch
    save: Callable[[Position], None] = lambda position: None
    save_every_s: float = 600.0


def train(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    losses: Sequence[LossTerm] | None = None,
    position: Position | None = None,
    hooks: Hooks = Hooks(),
) -> Position:
    """Train a model through a stage, in place.

    Args:
        model: quantized and calibrated as the stage wants it, on its device.
        batches: of the training split; their order is a function of (seed, epoch, step).
        optimizer: over the model's parameter groups, plain or ``SharpnessAware``; its lr is set at every update.
        losses: the stage's own terms, with the networks that they ask; None where they ask none.
        position: where to go on; None for the beginning.
        hooks: what to call after each epoch, and to save.

    Returns:
        The position at the end, with the history.

    Raises:
        TrainingError: the loss is NaN or infinite.
        ValueError: an epoch without a single update; labels that are no whole numbers, or do not fit the logits.
    """
    position = position or Position()
    terms = tuple(stage.losses if losses is None else losses)
    steps = min(len(batches), stage.max_steps or len(batches))
    check_steps(stage, steps, batches.num_samples, begin=position.epoch)
    saved = time.monotonic()
    with bar("loss", "top1", "rate") as progress:
        task = progress.add_task(stage.name, total=stage.epochs * steps, loss="", top1="", rate="")
        while position.epoch < stage.epochs:
            for _ in _updates(model, stage, batches, optimizer, terms, position, steps):
                _show(progress, task, position, steps)
                if time.monotonic() - saved > hooks.save_every_s and not suspects(model):  # else the next loss stops it
                    hooks.save(position)
                    saved = time.monotonic()
            epoch = hooks.after_epoch(_close_epoch(position, optimizer, terms))
            position.history = (*position.history, epoch)
            hooks.save(position)
    return position


def _updates(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    terms: Sequence[LossTerm],
    position: Position,
    steps: int,
) -> Iterator[None]:
    """Yield after updates of the rest of one epoch; position follows."""
    model.train()
    if stage.freeze_batchnorm is not None and position.epoch >= stage.freeze_batchnorm:
        freeze_batchnorm_(model)
    size = stage.batches_per_update(position.epoch)
    steps -= steps % size  # an update takes all its mini-batches
    since_check = 0
    tally = _Tally(model, position, stage)
    stream = batches.epoch(position.epoch, position.step)
    while position.step < steps:
        update = [pair_of(batch, f"stage {stage.name!r}: a batch") for batch in islice(stream, size)]
        if len(update) < size:
            break  # an epoch may end early, where batches could not be read
        lr = stage.lr_at(position.epoch + position.step / steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        closures = [_closure(model, optimizer, terms, part, tally) for part in _parts(update, stage)]
        optimizer.step(closures if isinstance(optimizer, SharpnessAware) else closures[0])  # type: ignore[arg-type]
        position.step += size
        position.samples += sum(len(y) for _, y in update)
        since_check += 1
        if since_check >= CHECK_EVERY or update[0][0].device.type == "cpu" or position.step >= steps:
            since_check = 0
            tally.settle(update[-1][0])
            yield


def _parts(update: list[Batch], stage: Stage) -> list[list[tuple[Batch, float]]]:
    """An update's mini-batches with their shares of the loss, in the parts that are perturbed alike."""
    whole = [((x, y), 1 / len(update)) for x, y in update]
    if stage.sharpness is None or stage.sharpness.shard is None:
        return [whole]
    m = stage.sharpness.shard
    return [
        [((part, y[start : start + m]), share * len(part) / len(x))]
        for (x, y), share in whole
        for start in range(0, len(x), m)
        for part in [x[start : start + m]]
    ]


def _closure(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    terms: Sequence[LossTerm],
    part: list[tuple[Batch, float]],
    tally: _Tally,
) -> Callable[[], Tensor]:
    """What ``optimizer.step`` calls, once or twice: gradients of the part's loss. The first call is what counts."""
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=part[0][0][0].device)
        for (x, y), share in part:
            logits = model(x)
            y = class_indices(y, logits, type(model).__name__)
            loss, values = weighted_sum(terms, model, x, y, logits)
            (loss * share).backward()
            total += loss.detach() * share
            if calls == 1:
                tally.add(loss, values, logits, y)
        return total

    return closure


class _Tally:
    """Sums over an epoch, left on the device until ``settle`` writes them into the position."""

    def __init__(self, model: nn.Module, position: Position, stage: Stage) -> None:
        self.model, self.position, self.stage = model, position, stage
        self.pending: list[Tensor] = []
        self.started = time.monotonic()

    def add(self, loss: Tensor, terms: list[Tensor], logits: Tensor, y: Tensor) -> None:
        """Note a mini-batch: summed loss and terms, number of right labels (of pixels their share, per image)."""
        right = logits.detach().argmax(1) == y
        share = right.float().mean() if y.ndim == 1 else right.sum() / (y != VOID).sum().clamp_min(1)
        self.pending.append(torch.stack([part.detach() for part in (loss, share, *terms)]) * len(y))

    def settle(self, x: Tensor) -> None:
        """Bring the sums up to date. Raises TrainingError, with what inputs x show, where the loss is not finite."""
        position = self.position
        if self.pending:
            loss, hits, *terms = torch.stack(self.pending).sum(0).double().tolist()
            position.loss, position.hits = position.loss + loss, position.hits + hits
            before = position.terms or (0.0,) * len(terms)
            position.terms = tuple(a + b for a, b in zip(before, terms, strict=True))
            self.pending = []
        position.seconds += time.monotonic() - self.started
        self.started = time.monotonic()
        where = f"in epoch {position.epoch + 1}, step {position.step}"
        if not math.isfinite(position.loss):
            raise failure(self.model, self.stage, x, f"the loss is not finite {where}")
        if position.first_loss is None and position.samples:
            position.first_loss = position.loss / position.samples


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


def _close_epoch(position: Position, optimizer: torch.optim.Optimizer, terms: Sequence[LossTerm]) -> EpochRecord:
    """The record of the finished epoch; the position moves to the next."""
    n = max(position.samples, 1)
    epoch = EpochRecord(
        epoch=position.epoch + 1,
        lr=float(optimizer.param_groups[0]["lr"]),  # a schedule may give NumPy's
        train_loss=position.loss / n,
        train_top1=100 * position.hits / n,
        losses={term.name: value / n for term, value in zip(terms, position.terms, strict=False)},
        images_per_s=n / max(position.seconds, 1e-9),
        seconds=position.seconds,
    )
    position.epoch, position.step, position.terms = position.epoch + 1, 0, ()
    position.loss, position.hits, position.samples, position.seconds = 0.0, 0.0, 0, 0.0
    return epoch
