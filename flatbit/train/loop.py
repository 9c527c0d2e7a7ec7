"""The one training loop: epochs of updates, with schedules, virtual batches, progress and hooks for saving."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from ..data.batches import VOID, Batches
from ..progress import bar
from .recipe import Stage

CHECK_EVERY = 20  # updates between looks at the loss: each look waits for the device


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is not finite."""


@dataclass(kw_only=True, slots=True)
class Position:
    """Where a stage stands: the epoch and mini-batch to come next, and the sums of the epoch so far."""

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    hits: float = 0.0
    samples: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)


def train(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    position: Position | None = None,
    after_epoch: Callable[[dict[str, Any]], None] = lambda numbers: None,
    save: Callable[[Position], None] = lambda position: None,
    save_every_s: float = 600.0,
) -> Position:
    """Train a model through a stage, in place.

    Args:
        model: quantized and calibrated as the stage wants it, on its device.
        batches: of the training split; their order is a function of (seed, epoch, step).
        optimizer: over the model's parameter groups; its lr is set at every update.
        position: where to go on; None for the beginning.
        after_epoch: called with the epoch's numbers (lr, loss, train top-1, images/s), which it may
            add to; they are appended to ``position.history``.
        save: called after every epoch, and every ``save_every_s`` inside one.

    Returns:
        The position at the end, with the history.

    Raises:
        TrainingError: the loss is NaN or infinite.
        ValueError: an epoch without a single update.
    """
    position = position or Position()
    steps = min(len(batches), stage.max_steps or len(batches))
    largest = max((stage.batches_per_update(epoch) for epoch in range(position.epoch, stage.epochs)), default=0)
    if steps < largest:
        raise ValueError(
            f"stage {stage.name!r}: an epoch of {batches.num_samples} samples has {steps} mini-batches, fewer than one "
            f"update takes ({largest}): lower batch_size or the virtual batch"
        )
    saved = time.monotonic()
    with bar("loss", "top1", "rate") as progress:
        task = progress.add_task(stage.name, total=stage.epochs * steps, loss="", top1="", rate="")
        while position.epoch < stage.epochs:
            for _ in _updates(model, stage, batches, optimizer, position, steps):
                _show(progress, task, position, steps)
                if time.monotonic() - saved > save_every_s:
                    save(position)
                    saved = time.monotonic()
            numbers = _close_epoch(position, optimizer)
            after_epoch(numbers)
            position.history.append(numbers)
            save(position)
    return position


def _updates(
    model: nn.Module, stage: Stage, batches: Batches, optimizer: torch.optim.Optimizer, position: Position, steps: int
) -> Any:
    """Yield after each update of the rest of one epoch; position follows."""
    model.train()
    size = stage.batches_per_update(position.epoch)
    steps -= steps % size  # an update is a whole virtual batch
    since_check = 0
    tally = _Tally(position, stage)
    optimizer.zero_grad(set_to_none=True)
    for x, y in batches.epoch(position.epoch, position.step):
        if position.step >= steps:
            break
        if position.step % size == 0:
            lr = stage.lr * stage.schedule(position.epoch + position.step / steps, stage.epochs)
            for group in optimizer.param_groups:
                group["lr"] = lr
        loss, logits = stage.objective(model, x, y)
        (loss / size).backward()
        tally.add(loss, logits, y)
        position.step += 1
        position.samples += len(y)
        if position.step % size:
            continue
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        since_check += 1
        if since_check >= CHECK_EVERY or x.device.type == "cpu" or position.step >= steps:
            since_check = 0
            tally.settle()
            yield
    tally.settle()  # an epoch may end early, where batches could not be read


class _Tally:
    """Sums over an epoch, left on the device until ``settle`` writes them into the position."""

    def __init__(self, position: Position, stage: Stage) -> None:
        self.position, self.stage = position, stage
        self.pending: list[Tensor] = []
        self.started = time.monotonic()

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Note a mini-batch: summed loss, number of right labels (of pixels their share, per image)."""
        right = (logits.detach().argmax(1) == y).float()
        share = right.mean() if y.ndim == 1 else right.sum() / (y != VOID).sum().clamp_min(1)
        self.pending.append(torch.stack([loss.detach(), share]) * len(y))

    def settle(self) -> None:
        """Bring the sums up to date. Raises TrainingError where the loss is not finite."""
        position, stage = self.position, self.stage
        if self.pending:
            loss, hits = torch.stack(self.pending).sum(0).double().tolist()
            position.loss, position.hits = position.loss + loss, position.hits + hits
            self.pending = []
        position.seconds += time.monotonic() - self.started
        self.started = time.monotonic()
        if not math.isfinite(position.loss):
            raise TrainingError(
                f"stage {stage.name!r}: the loss is not finite at epoch {position.epoch}, step {position.step}: "
                f"lr {stage.lr:g} is too high for these bits, or a step collapsed; the last checkpoint is sound"
            )


def _show(progress: Progress, task: TaskID, position: Position, steps: int) -> None:
    n = max(position.samples, 1)
    progress.update(
        task,
        completed=position.epoch * steps + position.step,
        loss=f"loss {position.loss / n:.3f}",
        top1=f"top1 {100 * position.hits / n:.1f}",
        rate=f"{n / max(position.seconds, 1e-9):,.0f} img/s",
    )


def _close_epoch(position: Position, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The numbers of the finished epoch; the position moves to the next."""
    n = max(position.samples, 1)
    numbers = {
        "epoch": position.epoch + 1,
        "lr": optimizer.param_groups[0]["lr"],
        "train_loss": position.loss / n,
        "train_top1": 100 * position.hits / n,
        "images_per_s": n / max(position.seconds, 1e-9),
        "seconds": position.seconds,
    }
    position.epoch, position.step = position.epoch + 1, 0
    position.loss, position.hits, position.samples, position.seconds = 0.0, 0.0, 0, 0.0
    return numbers
