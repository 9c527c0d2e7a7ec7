"""The choice of a way: those that the device has are tried on a few updates, held to eager's, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from ..data.batches import Batch, Batches
from ..data.pairs import pair_of
from ..modes import modes_kept
from ..train.losses import LossTerm
from .capture import EngineError, State
from .recipe import Stage
from .update import Update, running
from .way import EAGER, ENGINES, Precision, Way

CHECKED, TIMED = 2, 8
"""Updates that are compared, each from one state; and further ones that are timed."""
TOLERANCE: dict[Precision, float] = {"float32": 0.05, "tf32": 0.05, "bf16": 0.25}
"""How far an update may lie from eager's, as a share of its movement.

Sums that are rounded otherwise turn a few codes of a 2-bit net into others, and so its gradients: 1e-5 to 1e-2 of one
update of a ResNet-8 where the samples of a batch come in another order.
"""
COMPILED_SAVES = {"cpu": 0.1, "cuda": 0.4}
WARM_UP_S = {"cpu": 140.0, "cuda": 60.0}
"""What compiling saves of a step, and what it takes at first. Measured on a CPU: 9 to 15 %, 72 to 206 s cold.

On CUDA assumed, until ``scripts/gpu`` has measured it: there a step's elementwise passes cost more, and are fused.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One way, tried.

    Attributes:
        way: how.
        seconds: of an update.
        refusal: why it cannot be taken; empty where it can.
    """

    way: Way
    seconds: float = float("inf")
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.way.engine} {self.refusal or f'{1000 * self.seconds:.2f} ms'}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trials:
    """What all ways are tried on.

    Attributes:
        model, stage, terms, optimizer: as ``Update`` takes them.
        taken: the mini-batches of an update, for each of ``1 + CHECKED + TIMED`` updates.
        state: after the first of these, which makes the optimizer's state.
    """

    model: nn.Module
    stage: Stage
    terms: Sequence[LossTerm]
    optimizer: torch.optim.Optimizer
    taken: list[list[Batch]]
    state: State

    @property
    def lr(self) -> float:
        """The stage's own: its schedule may begin at 0."""
        return self.stage.lr or 0.0

    def moved(self, way: Way) -> tuple[list[Tensor], float]:
        """Each checked update's movement of the parameters from the one state; the mean seconds of those after them."""
        with running(self.model, way):
            update = Update(self.model, self.stage, self.terms, self.optimizer, way)
            update(self.taken[0], self.lr)  # as it is: what is captured or compiled comes after it
            before, movements = self._restored(), []
            for batches in self.taken[1 : 1 + CHECKED]:
                update(batches, self.lr)
                movements.append(self._parameters() - before)
                self._restored()
            update.tally()  # waits for the device
            begun = time.perf_counter()
            for batches in self.taken[1 + CHECKED :]:
                update(batches, self.lr)
            update.tally()
            seconds = (time.perf_counter() - begun) / TIMED
        self._restored()
        return movements, seconds

    def tried(self, way: Way, eager: list[Tensor]) -> Trial:
        """A way against eager."""
        try:
            movements, seconds = self.moved(way)
        except EngineError as error:
            self._restored()
            return Trial(way=way, refusal=f"refused: {error}")
        farthest = max(map(_distance, movements, eager))
        if not farthest <= TOLERANCE[way.precision]:
            return Trial(way=way, refusal=f"differs from eager by {farthest:.1e} of an update")
        return Trial(way=way, seconds=seconds)

    def _restored(self) -> Tensor:
        self.state.restore_()
        return self._parameters()

    def _parameters(self) -> Tensor:
        return torch.cat([p.detach().flatten().double() for p in self.model.parameters()])


def choose_way(
    model: nn.Module,
    stage: Stage,
    terms: Sequence[LossTerm],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    *,
    eager: Way = EAGER,
    note: Callable[[str], None] = lambda line: None,
) -> Way:
    """The fastest way that updates as eager does; compiling is tried only where a stage is long enough for it to pay.

    Model, optimizer and random state are left as they were.

    Args:
        model, stage, terms, optimizer: as ``Update`` takes them.
        batches: of training; the first of the first epoch are used.
        eager: what the others are compared with; precision and ``recompute`` of all.
        note: called with one line: what was chosen, and what all took.
    """
    untouched = State.of(model, optimizer)
    try:
        with modes_kept(model):
            model.train()
            found = _tried(model, stage, terms, optimizer, batches, eager)
    finally:
        untouched.restore_()
        optimizer.zero_grad(set_to_none=True)
    best = min(found, key=lambda trial: trial.seconds)
    note(f"{stage.name}: engine {best.way}: an update takes {', '.join(map(str, found))}")
    return best.way


def _tried(
    model: nn.Module,
    stage: Stage,
    terms: Sequence[LossTerm],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    eager: Way,
) -> list[Trial]:
    """Eager, and what else can run here and would pay."""
    taken = updates_of(stage, first_batches(stage, batches), 1 + CHECKED + TIMED)
    with running(model, eager):
        Update(model, stage, terms, optimizer, eager)(taken[0], stage.lr or 0.0)
    trials = Trials(
        model=model, stage=stage, terms=terms, optimizer=optimizer, taken=taken, state=State.of(model, optimizer)
    )
    movements, seconds = trials.moved(eager)
    found = [Trial(way=eager, seconds=seconds)]
    steps = stage.updates(min(len(batches), stage.max_steps or len(batches)))
    for engine in ENGINES:
        way = _as(engine, eager, movements[0].device)
        if way is None or way == eager:
            continue
        fastest = min(trial.seconds for trial in found)
        if not way.compiled or _pays(fastest * steps, movements[0].device):
            found.append(trials.tried(way, movements))
    return found


def _pays(seconds: float, device: torch.device) -> bool:
    """Whether compiling a stage of so many seconds would save twice what it takes."""
    kind = device.type if device.type in WARM_UP_S else "cpu"
    return COMPILED_SAVES[kind] * seconds > 2 * WARM_UP_S[kind]


def updates_of(stage: Stage, stream: Iterator[Batch], count: int) -> list[list[Batch]]:
    """The mini-batches of some first updates, over again where the stream of an epoch has too few."""
    size = stage.batches_per_update(0)
    endless = cycle(list(islice(stream, size * count)))
    return [list(islice(endless, size)) for _ in range(count)]


def first_batches(stage: Stage, batches: Batches) -> Iterator[Batch]:
    """The mini-batches of the first epoch."""
    return (pair_of(batch, f"stage {stage.name!r}: a batch") for batch in batches.epoch(0))


def _as(engine: str, eager: Way, device: torch.device) -> Way | None:
    """A way with all else as eager has it; None where the device cannot run it."""
    graphs, compiled = ENGINES[engine]
    try:
        way = replace(eager, graphs=graphs, compiled=compiled)
        way.check(device)
    except ValueError:
        return None
    return way


def _distance(movement: Tensor, eager: Tensor) -> float:
    return float((movement - eager).norm() / eager.norm().clamp_min(torch.finfo(eager.dtype).tiny))
