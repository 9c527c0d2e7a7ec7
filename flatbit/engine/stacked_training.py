"""The training loop of stacked nets: a stage for all of them at once, with a position and a record for each.

A stage is trained as ``flatbit.engine.loop.train`` does it; what one epoch leaves is written into the models, so that
scoring, saving and going on, also one at a time, find ordinary models.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from ..data.batches import Batch, Batches
from ..data.pairs import pair_of
from ..device import device_of
from ..progress import bar
from ..quant.quantizer import Quantizer
from ..train.batchnorm import freeze_batchnorm_
from ..train.optimizers import set_rate_
from .checks import check_steps
from .choice import updates_of
from .loop import CHECK_EVERY, Hooks, Position, TrainingError, failure
from .recipe import Stage
from .stacked import NO_LEAVES, StackedNets
from .stacked_optimizer import stacked_optimizer
from .stacked_sharpness import StackedSharpness


@dataclass(kw_only=True, slots=True)
class Net:
    """One of the nets in training.

    Attributes:
        batches: of its training split.
        position: where it stands; the same epoch and step for all.
        hooks: what to call after each of its epochs; ``save_every_s`` is not looked at.
        error: why it stopped; None where it did not. Its model keeps what the last sound epoch left.
    """

    batches: Batches
    position: Position = field(default_factory=Position)
    hooks: Hooks = field(default_factory=Hooks)
    error: TrainingError | None = None


def train_stacked(
    stack: StackedNets, stage: Stage, nets: Sequence[Net], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Train all nets of a stack through a stage, in place: models and positions follow after every epoch.

    A net whose loss is not finite, or whose ``after_epoch`` raises TrainingError, stops by itself: the others go on.
    Seconds in records are each net's share.

    Args:
        stack: quantized and calibrated as the stage wants it, with its losses.
        stage: of all alike.
        nets: in the order of the stack's models. Where all have the very same ``batches`` (arms), one batch is made.
        optimizer: of ``stacked_optimizer``; None for a fresh one.

    Raises:
        ValueError: nets of another number, positions or sizes of batches that differ, an epoch without an update, and
            what the optimizer, sharpness or the nets cannot do stacked.
    """
    positions = {(net.position.epoch, net.position.step) for net in nets}
    sizes = {(len(net.batches), net.batches.batch_size) for net in nets}
    if len(nets) != len(stack) or len(positions) != 1 or len(sizes) != 1:
        raise ValueError(
            f"{len(nets)} nets for {len(stack)} models, positions (epoch, step) {sorted(positions)}, batches (number, "
            f"size) {sorted(sizes)}: expected one net for each model, and all in step: train these one at a time"
        )
    _Training(stack, stage, nets, optimizer).run()


def seconds_of_updates(stack: StackedNets, stage: Stage, nets: Sequence[Net], count: int) -> list[float]:
    """What each of a few first updates takes. The stack moves; its models, the positions and random numbers do not.

    Raises ValueError as ``train_stacked`` does.
    """
    training, found = _Training(stack, stage, nets, None), []
    devices = [device] if (device := device_of(stack.models[0])).type == "cuda" else []
    with torch.random.fork_rng(devices):
        stack.train()
        for batches in updates_of(stage, training._stream(0, 0), count):
            begun = time.perf_counter()
            training._update(batches)
            assert training.sums is not None
            training.sums.tolist()  # waits for the device
            found.append(time.perf_counter() - begun)
    return found


class _Training:
    """A stage of stacked nets in progress; ``sums`` are those of loss, right answers and terms since the last look."""

    def __init__(
        self, stack: StackedNets, stage: Stage, nets: Sequence[Net], optimizer: torch.optim.Optimizer | None
    ) -> None:
        self.stack, self.stage, self.nets = stack, stage, nets
        self.optimizer = optimizer or stacked_optimizer(
            stack, stage.optimizer, lr=stage.lr or 0.0, weight_decay=stage.weight_decay
        )
        self.sharpness = None if stage.sharpness is None else StackedSharpness(stack, stage.sharpness)
        first = nets[0].batches
        self.shared = all(net.batches is first for net in nets)
        self.steps = min(len(first), stage.max_steps or len(first))
        check_steps(stage, self.steps, first.num_samples, begin=nets[0].position.epoch)
        self.sums: Tensor | None = None
        self.started = time.monotonic()

    @property
    def alive(self) -> list[int]:
        """The numbers of the nets that did not stop."""
        return [index for index, net in enumerate(self.nets) if net.error is None]

    def run(self) -> None:
        epoch, step = self.nets[0].position.epoch, self.nets[0].position.step
        with bar("loss", "top1", "rate") as progress:
            task = progress.add_task(self.stage.name, total=self.stage.epochs * self.steps, loss="", top1="", rate="")
            while epoch < self.stage.epochs and self.alive:
                for done in self._updates(epoch, step):
                    self._show(progress, task, epoch * self.steps + done)
                self._close_epoch()
                epoch, step = epoch + 1, 0

    def _updates(self, epoch: int, step: int) -> Iterator[int]:
        """Yield after looks at the loss in the rest of one epoch, with the number of mini-batches done."""
        stage, size = self.stage, self.stage.batches_per_update(epoch)
        self.stack.train()
        if stage.freeze_batchnorm is not None and epoch >= stage.freeze_batchnorm:
            freeze_batchnorm_(self.stack.shape.net)
        steps, since_look = self.steps - self.steps % size, 0
        self.started = time.monotonic()
        stream = self._stream(epoch, step)
        update = list(islice(stream, size))
        while step < steps and len(update) == size:  # an epoch may end early, where batches could not be read
            set_rate_(self.optimizer, stage.lr_at(epoch + step / steps))
            self._update(update)
            x = update[-1][0]
            step, since_look = step + size, since_look + 1
            for net in self.nets:
                net.position.step = step
                net.position.samples += sum(y.shape[0 if self.shared else 1] for _, y in update)
            update = list(islice(stream, size)) if step < steps else []
            if since_look >= CHECK_EVERY or len(update) < size or self.nets[0].position.first_loss is None:
                since_look = 0
                self._look(x)
                yield step
            if not self.alive:
                return

    def _stream(self, epoch: int, step: int) -> Iterator[Batch]:
        """The mini-batches of one epoch, stacked: (N, batch, ...), or as they are where all nets share them."""
        where = f"stage {self.stage.name!r}: a batch"
        if self.shared:
            yield from (pair_of(batch, where) for batch in self.nets[0].batches.epoch(epoch, step))
            return
        for batches in zip(*(net.batches.epoch(epoch, step) for net in self.nets), strict=False):
            xs, ys = zip(*(pair_of(batch, where) for batch in batches), strict=True)
            yield torch.stack(xs), torch.stack(ys)

    def _update(self, batches: list[Batch]) -> None:
        """One update of all nets; what it gave joins the sums."""

        def backward(leaves: Mapping[Quantizer, Tensor] = NO_LEAVES) -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            found = []
            for x, y in batches:
                values = self.stack.losses(x, y, shared=self.shared, leaves=leaves)
                (values[:, 0].sum() / len(batches)).backward()
                found.append(values.detach().double() * y.shape[0 if self.shared else 1])
            return torch.stack(found).sum(0)

        if self.sharpness is not None:
            found = self.sharpness.step(self.optimizer, backward)
        else:
            found = backward()
            self.optimizer.step()
        self.sums = found if self.sums is None else self.sums + found

    def _look(self, x: Tensor) -> None:
        """Bring the positions of all nets up to date; stop those whose loss is not finite."""
        assert self.sums is not None
        seconds = (time.monotonic() - self.started) / max(len(self.alive), 1)
        for index, sums in enumerate(self.sums.tolist()):
            net, position = self.nets[index], self.nets[index].position
            if net.error is not None:
                continue
            position.add(sums)
            position.seconds += seconds
            if not math.isfinite(position.loss):
                self._stop(index, x if self.shared else x[index])
        self.sums, self.started = None, time.monotonic()

    def _stop(self, index: int, x: Tensor) -> None:
        """Note why a net stops, with what its layers show on inputs x."""
        position = self.nets[index].position
        broken = copy.deepcopy(self.stack.models[index])
        self.stack.write_(index, broken)
        what = f"the loss is not finite in epoch {position.epoch + 1}, step {position.step}"
        self.nets[index].error = failure(broken, self.stage, x, what)

    def _close_epoch(self) -> None:
        """Write the nets into their models, and their epochs into their positions; all are saved one after another."""
        self.stack.unstack_(self.alive)
        for net in (self.nets[index] for index in self.alive):
            lr = self.optimizer.param_groups[0]["lr"]
            record = net.position.close_epoch(lr, self.stack.shape.terms)  # type: ignore[arg-type]
            try:
                record = net.hooks.after_epoch(record)
            except TrainingError as error:
                net.error = error
                continue
            net.position.history = (*net.position.history, record)
        for net in (self.nets[index] for index in self.alive):
            net.hooks.save(net.position)

    def _show(self, progress: Progress, task: TaskID, done: int) -> None:
        positions = [self.nets[index].position for index in self.alive] or [net.position for net in self.nets]
        n, count = max(positions[0].samples, 1), len(positions)
        progress.update(
            task,
            completed=done,
            loss=f"loss {sum(p.loss for p in positions) / n / count:.3f}",
            top1=f"top1 {100 * sum(p.hits for p in positions) / n / count:.1f}",
            rate=f"{n / max(positions[0].seconds, 1e-9):,.0f} img/s",
        )
