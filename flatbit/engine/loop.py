"""The one training loop: epochs of updates, with schedules, virtual batches, sharpness, progress and hooks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor, nn

from ..data.batches import VOID, Batch, Batches
from ..metrics.health import Finding, examine, explain, suspects
from ..progress import bar
from ..train.batchnorm import freeze_batchnorm_
from ..train.objective import Objective
from ..train.sharpness import SharpnessAware
from .recipe import Stage

CHECK_EVERY = 20  # updates between looks at the loss: each look waits for the device


class TrainingError(RuntimeError):
    """Training cannot go on: the loss is not finite, or the net has collapsed.

    Attributes:
        findings: what the layers show, the first to go wrong first.
    """

    def __init__(self, message: str, findings: list[Finding] | None = None) -> None:
        super().__init__(message)
        self.findings = findings or []


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
    objective: Objective | None = None,
    position: Position | None = None,
    after_epoch: Callable[[dict[str, Any]], None] = lambda numbers: None,
    save: Callable[[Position], None] = lambda position: None,
    save_every_s: float = 600.0,
) -> Position:
    """Train a model through a stage, in place.

    Args:
        model: quantized and calibrated as the stage wants it, on its device.
        batches: of the training split; their order is a function of (seed, epoch, step).
        optimizer: over the model's parameter groups, plain or ``SharpnessAware``; its lr is set at every update.
        objective: in place of the stage's own (with a teacher, with the Lipschitz term: ``objective_of``).
        position: where to go on; None for the beginning.
        after_epoch: called with the epoch's numbers (lr, loss, train top-1, images/s), which it may
            add to; they are appended to ``position.history``.
        save: called after every epoch, and every ``save_every_s`` inside one, with weights that are finite.

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
            for _ in _updates(model, stage, batches, optimizer, objective or stage.objective, position, steps):
                _show(progress, task, position, steps)
                if time.monotonic() - saved > save_every_s and not suspects(model):  # else the next loss stops it
                    save(position)
                    saved = time.monotonic()
            numbers = _close_epoch(position, optimizer)
            after_epoch(numbers)
            position.history.append(numbers)
            save(position)
    return position


def _updates(
    model: nn.Module,
    stage: Stage,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    position: Position,
    steps: int,
) -> Iterator[None]:
    """Yield after updates of the rest of one epoch; position follows."""
    model.train()
    if stage.freeze_batchnorm is not None and position.epoch >= stage.freeze_batchnorm:
        freeze_batchnorm_(model)
    size = stage.batches_per_update(position.epoch)
    steps -= steps % size  # an update is a whole virtual batch
    since_check = 0
    tally = _Tally(model, position, stage)
    stream = batches.epoch(position.epoch, position.step)
    while position.step < steps:
        update = list(islice(stream, size))
        if len(update) < size:
            break  # an epoch may end early, where batches could not be read
        lr = stage.lr * stage.schedule(position.epoch + position.step / steps, stage.epochs)
        for group in optimizer.param_groups:
            group["lr"] = lr
        closures = [_closure(model, optimizer, objective, part, tally) for part in _parts(update, stage)]
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
    objective: Objective,
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
            loss, logits = objective(model, x, y)
            (loss * share).backward()
            total += loss.detach() * share
            if calls == 1:
                tally.add(loss, logits, y)
        return total

    return closure


class _Tally:
    """Sums over an epoch, left on the device until ``settle`` writes them into the position."""

    def __init__(self, model: nn.Module, position: Position, stage: Stage) -> None:
        self.model, self.position, self.stage = model, position, stage
        self.pending: list[Tensor] = []
        self.started = time.monotonic()

    def add(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Note a mini-batch: summed loss, number of right labels (of pixels their share, per image)."""
        right = (logits.detach().argmax(1) == y).float()
        share = right.mean() if y.ndim == 1 else right.sum() / (y != VOID).sum().clamp_min(1)
        self.pending.append(torch.stack([loss.detach(), share]) * len(y))

    def settle(self, x: Tensor) -> None:
        """Bring the sums up to date. Raises TrainingError, with what inputs x show, where the loss is not finite."""
        position = self.position
        if self.pending:
            loss, hits = torch.stack(self.pending).sum(0).double().tolist()
            position.loss, position.hits = position.loss + loss, position.hits + hits
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
    settings += [f"lipschitz {stage.lipschitz:g}"] if stage.lipschitz else []
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
