"""The choice of a way: those that the device has are tried on a few updates, checked against eager, and timed.

A low-bit net turns a difference in the last bit of a sum into another code somewhere, and that into another
gradient. So no fixed tolerance tells a right way from a wrong one. What rounding does is measured: how far
eager updates differ from themselves where the samples of a batch come in another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from ..data.batches import Batch, Batches
from ..data.pairs import pair_of
from ..train.losses import LossTerm
from .capture import EngineError, State
from .recipe import Stage
from .update import Update
from .way import ENGINES, Precision, Way

CHECKED, TIMED = 3, 8
"""Updates that are compared, the first of which is never a replay; and further ones that are timed."""
FARTHER, NEGLIGIBLE, MOST = 4.0, 1e-4, 0.5
"""A way is right where it differs by four times that at most, or by a ten-thousandth of the movement; never by half."""
COMPILED_SAVES, WARM_UP_S = 0.1, 140.0
"""What compiling saves of a step, and what it takes at first: measured on a CPU, 9 to 15 % and 72 to 206 s cold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One way, tried.

    Attributes:
        way: how.
        seconds: of an update.
        difference: of the parameters from those of eager updates, as a share of these updates' movement.
        refusal: why it cannot be taken; empty where it can.
    """

    way: Way
    seconds: float = float("inf")
    difference: float = float("nan")
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.way.engine} {self.refusal or f'{1000 * self.seconds:.2f} ms'}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trials:
    """What all ways are tried on.

    Attributes:
        model, stage, terms, optimizer: as ``Update`` takes them; left as they were.
        taken: the mini-batches of an update, for each of ``CHECKED + TIMED`` updates.
        state: of the model and the optimizer before.
    """

    model: nn.Module
    stage: Stage
    terms: Sequence[LossTerm]
    optimizer: torch.optim.Optimizer
    taken: list[list[Batch]]
    state: State

    def moved(self, way: Way, taken: Sequence[list[Batch]]) -> tuple[Tensor, float]:
        """The parameters' movement in ``CHECKED`` updates as one vector, and the mean seconds of those after them."""
        lr = self.stage.lr or 0.0  # a schedule may begin at 0
        before = self._parameters()
        try:
            update = Update(self.model, self.stage, self.terms, self.optimizer, way)
            for batches in taken[:CHECKED]:
                update(batches, lr)
            movement = self._parameters() - before
            begun = time.perf_counter()
            for batches in taken[CHECKED:]:
                update(batches, lr)
            update.tally()  # waits for the device
            return movement, (time.perf_counter() - begun) / max(len(taken) - CHECKED, 1)
        finally:
            self.state.restore_()
            self.optimizer.zero_grad(set_to_none=True)

    def tried(self, way: Way, eager: Tensor, rounding: float) -> Trial:
        """A way against eager."""
        try:
            movement, seconds = self.moved(way, self.taken)
        except EngineError as error:
            return Trial(way=way, refusal=f"refused: {error}")
        difference = _distance(movement, eager)
        if not difference <= min(max(FARTHER * rounding, NEGLIGIBLE), MOST):
            wrong = f"differs from eager by {difference:.1e} of the movement, rounding by {rounding:.1e}"
            return Trial(way=way, difference=difference, refusal=wrong)
        return Trial(way=way, seconds=seconds, difference=difference)

    def _parameters(self) -> Tensor:
        return torch.cat([p.detach().flatten().double() for p in self.model.parameters()])


def choose_way(
    model: nn.Module,
    stage: Stage,
    terms: Sequence[LossTerm],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    *,
    precision: Precision = "float32",
    note: Callable[[str], None] = lambda line: None,
) -> Way:
    """The fastest way that updates as eager does; compiling is tried only where a stage is long enough for it to pay.

    Model, optimizer and random state are left as they were.

    Args:
        model, stage, terms, optimizer: as ``Update`` takes them.
        batches: of training; the first of the first epoch are used.
        precision: of all ways.
        note: called with one line: what was chosen, and what all took.
    """
    model.train()
    trials = Trials(
        model=model, stage=stage, terms=terms, optimizer=optimizer,
        taken=updates_of(stage, first_batches(stage, batches), CHECKED + TIMED), state=State.of(model, optimizer),
    )  # fmt: skip
    eager = Way(precision=precision)
    movement, seconds = trials.moved(eager, trials.taken)
    found = [Trial(way=eager, seconds=seconds, difference=0.0)]
    reordered, _ = trials.moved(eager, [_reordered(batches, stage) for batches in trials.taken[:CHECKED]])
    rounding = _distance(reordered, movement)
    steps = min(len(batches), stage.max_steps or len(batches))
    for engine in ENGINES:
        way = Way.parse(engine, precision)
        if way == eager or not _runs(way, movement.device):
            continue
        fastest = min(trial.seconds for trial in found)
        if way.compiled and COMPILED_SAVES * fastest * stage.updates(steps) <= 2 * WARM_UP_S:
            continue
        found.append(trials.tried(way, movement, rounding))
    best = min(found, key=lambda trial: trial.seconds)
    note(f"{stage.name}: engine {best.way}: an update takes {', '.join(map(str, found))}")
    return best.way


def updates_of(stage: Stage, stream: Iterator[Batch], count: int) -> list[list[Batch]]:
    """The mini-batches of some first updates, over again where the stream of an epoch has too few."""
    size = stage.batches_per_update(0)
    endless = cycle(list(islice(stream, size * count)))
    return [list(islice(endless, size)) for _ in range(count)]


def first_batches(stage: Stage, batches: Batches) -> Iterator[Batch]:
    """The mini-batches of the first epoch."""
    return (pair_of(batch, f"stage {stage.name!r}: a batch") for batch in batches.epoch(0))


def _reordered(batches: list[Batch], stage: Stage) -> list[Batch]:
    """The mini-batches, the samples that are perturbed alike in reverse: the same update, its sums rounded anew."""
    m = stage.sharpness.shard if stage.sharpness is not None else None

    def reverse(x: Tensor) -> Tensor:
        return torch.cat([part.flip(0) for part in x.split(m or len(x))])

    return [(reverse(x), reverse(y)) for x, y in batches]


def _runs(way: Way, device: torch.device) -> bool:
    try:
        way.check(device)
    except ValueError:
        return False
    return True


def _distance(movement: Tensor, eager: Tensor) -> float:
    return float((movement - eager).norm() / eager.norm().clamp_min(torch.finfo(eager.dtype).tiny))
