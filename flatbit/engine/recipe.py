"""A recipe as data: a model, a data set, and the stages it goes through. The engine plans it, then runs it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from ..quant.policy import Policy
from ..reference import AVERAGE, START, From
from ..train.losses import LossTerm
from ..train.losses.labels import CrossEntropy
from ..train.optimizers import SGD, Optimizer
from ..train.schedules import Constant, Schedule
from ..train.sharpness import Sharpness
from .splits import Splits

SMOKE_STEPS = 2
DESCENT = (
    "optimizer", "lr", "weight_decay", "schedule", "accumulation", "freeze_batchnorm", "losses", "sharpness",
    "fixed_weight_steps", "captures", "keep_captures", "evaluate_every", "max_steps",
)  # fmt: skip
"""What only training has: a stage without epochs leaves these out."""
QUANTIZED = ("strict", "calibration_batches", "fixed_weight_steps")
"""What only a stage with a policy has."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One piece of training: what is quantized, where it starts, how it descends.

    Attributes:
        name: of the stage, as results carry it (``uniq-w2a2``).
        epochs: how long; 0 only calibrates and evaluates.
        policy: what is quantized; None trains in float.
        strict: refuse a model with layers that cannot be quantized; False leaves those float.
        start: what it starts from. Of an earlier stage weights and batch norms; of its average, a stage
            without a policy keeps the average's own grid, one with a policy re-quantizes it: weights get
            new steps, activations keep theirs.
        optimizer, lr, weight_decay: of the descent; no decay on learned steps.
        schedule: factor of lr as a function of progress.
        batch_size: of a mini-batch.
        accumulation: ``((epoch, n), ...)`` in rising order: from that epoch on, n mini-batches make one update
            (gradient accumulation: gradients averaged, batch norm per mini-batch).
        calibration_batches: for ``calibrate_``; None for what the method asks.
        freeze_batchnorm: so many epochs done, batch norms use their running statistics and keep them; None
            trains them throughout. The scores around the first such epoch are reported.
        reestimate_batches: training batches to re-estimate batch-norm statistics from at the end; 0
            keeps those of training.
        losses: the terms of the loss, each with its weight; labels alone unless told otherwise.
        sharpness: SAM, ASAM, SAQ or ASAQ around the optimizer; None for plain descent.
        fixed_weight_steps: learned steps and clips of weights stay as calibrated, so that captures share a grid.
        captures: numbers of finished epochs after which the model joins the stage's average (SQWA, SWA).
        evaluate_every: epochs between looks at the test set; after the last epoch and at captures there is
            always one. Nothing is chosen by them.
        keep_captures: also write each capture to a file of its own, ``stages/NAME@EPOCH.safetensors``.
        max_steps: per epoch; None for the whole epoch.

    Raises:
        ValueError: a value out of range, or one that cannot act: of training in a stage of 0 epochs, of
            quantization in one without a policy, ``keep_captures`` without captures, a part of the schedule or of
            ``accumulation`` that begins after the end.
    """

    name: str
    epochs: int
    policy: Policy | None = None
    strict: bool = True
    start: From = START
    optimizer: Optimizer = field(default_factory=SGD)
    lr: float | None = None
    weight_decay: float = 0.0
    schedule: Schedule = field(default_factory=Constant)
    batch_size: int = 128
    accumulation: tuple[tuple[int, int], ...] = ()
    calibration_batches: int | None = None
    freeze_batchnorm: int | None = None
    reestimate_batches: int = 0
    losses: tuple[LossTerm, ...] = (CrossEntropy(),)
    sharpness: Sharpness | None = None
    fixed_weight_steps: bool = False
    captures: tuple[int, ...] = ()
    evaluate_every: int = 1
    keep_captures: bool = False
    max_steps: int | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.name, str) and bool(re.fullmatch(r"\w[\w.+-]*", self.name))
        named = named and not self.name.endswith(AVERAGE)
        self._check("name", named, f"letters, digits and . _ + -, not ending in {AVERAGE}: it names a file")
        self._check_types()
        self._check_numbers()
        within = all(_is_whole(epoch) and 1 <= epoch <= self.epochs for epoch in self.captures)
        once = len({*self.captures}) == len(self.captures)
        self._check("captures", within and once, f"numbers of finished epochs, 1 to {self.epochs}, each once")
        self._check("losses", bool(self.losses), "at least one term")
        names = [term.name for term in self.losses]
        self._check("losses", len({*names}) == len(names), "terms of different names")
        self._check_that_all_act()

    def _check_types(self) -> None:
        """Raise ValueError for a part that is no object of its class, such as the name of one."""
        kinds: dict[str, tuple[type, str]] = {
            "start": (From, "a From, such as From.stage('float')"),
            "optimizer": (Optimizer, "an Optimizer, as SGD()"),
            "schedule": (Schedule, "a Schedule, as Cosine()"),
            "captures": (tuple, "a tuple of numbers of epochs"),
            "losses": (tuple, "a tuple of loss terms, as (CrossEntropy(),)"),
            "strict": (bool, "True or False"),
            "fixed_weight_steps": (bool, "True or False"),
            "keep_captures": (bool, "True or False"),
        }
        for name, (kind, expected) in kinds.items():
            self._check(name, isinstance(getattr(self, name), kind), expected)
        for name, kind in (("policy", Policy), ("sharpness", Sharpness)):
            value = getattr(self, name)
            self._check(name, value is None or isinstance(value, kind), f"a {kind.__name__}, or None")
        terms = all(isinstance(term, LossTerm) for term in self.losses)
        self._check("losses", terms, "loss terms, as CrossEntropy()")
        pairs = isinstance(self.accumulation, tuple)
        pairs = pairs and all(isinstance(p, tuple) and len(p) == 2 for p in self.accumulation)
        self._check("accumulation", pairs, "a tuple of pairs (epoch, number of mini-batches)")

    def _check_numbers(self) -> None:
        """Raise ValueError for a number out of its range."""
        least = {"epochs": 0, "batch_size": 1, "evaluate_every": 1, "reestimate_batches": 0}
        for name, low in least.items():
            value = getattr(self, name)
            self._check(name, _is_whole(value) and value >= low, f"{low} or more")
        self._check("lr", self.lr is None or (_is_number(self.lr) and self.lr > 0), "a positive number")
        self._check("weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "0 or more")
        freezes = self.freeze_batchnorm is None or (_is_whole(self.freeze_batchnorm) and self.freeze_batchnorm >= 0)
        self._check("freeze_batchnorm", freezes, "a number of epochs, 0 or more, or None")
        for name in ("max_steps", "calibration_batches"):
            value = getattr(self, name)
            self._check(name, value is None or (_is_whole(value) and value >= 1), "1 or more, or None")
        grows = all(_is_whole(epoch) and epoch >= 0 and _is_whole(n) and n >= 1 for epoch, n in self.accumulation)
        self._check("accumulation", grows, "pairs of an epoch and a number of mini-batches, 1 or more")

    def _check_that_all_act(self) -> None:
        """Raise ValueError for a setting that could not act."""
        if self.epochs:
            self._check("lr", self.lr is not None, f"a number: {self.epochs} epochs train")
            self._check_that_descent_acts()
        else:
            self._check_left_out(DESCENT, "epochs=0 trains nothing")
        if self.policy is None:
            self._check_left_out(QUANTIZED, "without a policy nothing is quantized")
        if not self.captures:
            self._check_left_out(("keep_captures",), "there are no captures")

    def _check_that_descent_acts(self) -> None:
        """Raise ValueError for a setting of training that comes after the end, or changes nothing."""
        ends = f"the stage ends after {self.epochs} epochs"
        if self.freeze_batchnorm is not None:
            self._check_acts("freeze_batchnorm", self.freeze_batchnorm < self.epochs, ends)
        self._check_acts("evaluate_every", self.evaluate_every <= self.epochs, ends)
        before = -1, 1
        for epoch, n in self.accumulation:
            self._check("accumulation", epoch > before[0], "pairs of rising epochs")
            self._check_acts("accumulation", epoch < self.epochs, ends)
            why = f"from epoch {epoch} on an update takes {n} mini-batches, and before it does so too"
            self._check_acts("accumulation", n != before[1], why)
            before = epoch, n
        shard = None if self.sharpness is None else self.sharpness.shard
        if shard is not None:  # in an update of several mini-batches, each whole one can be a shard
            parts = shard < self.batch_size or (shard == self.batch_size and bool(self.accumulation))
            self._check_acts("sharpness", parts, f"shard={shard} divides no mini-batch of {self.batch_size}")
        if self.max_steps is None:  # cut epochs are no whole ones: ``smoke`` keeps the schedule of the stage it cuts
            try:
                self.schedule.check(self.epochs)
            except ValueError as error:
                raise ValueError(f"stage {self.name!r}: schedule {error}") from error

    def _check_acts(self, name: str, acts: bool, why: str) -> None:
        if not acts:
            raise ValueError(f"stage {self.name!r}: {name}={getattr(self, name)!r} cannot act: {why}: leave it out")

    def _check_left_out(self, names: tuple[str, ...], why: str) -> None:
        usual = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        for name in names:
            self._check_acts(name, getattr(self, name) == usual[name], why)

    def _check(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise ValueError(f"stage {self.name!r}: {name}={getattr(self, name)!r}: expected {expected}")

    def batches_per_update(self, epoch: int) -> int:
        """n of ``accumulation`` at an epoch: how many mini-batches make one update."""
        return next((n for first, n in reversed(self.accumulation) if epoch >= first), 1)

    def updates(self, steps: int) -> int:
        """How many updates the stage makes where an epoch has so many mini-batches."""
        steps = min(steps, self.max_steps or steps)
        return sum(steps // self.batches_per_update(epoch) for epoch in range(self.epochs))

    def looks(self) -> set[int]:
        """The epochs after which it looks at the test set: the last, captures, and those around freezing among them."""
        every = range(self.evaluate_every, self.epochs + 1, self.evaluate_every)
        frozen = () if self.freeze_batchnorm is None else (self.freeze_batchnorm, self.freeze_batchnorm + 1)
        return {epoch for epoch in (*every, *frozen, *self.captures, self.epochs) if 1 <= epoch <= self.epochs}

    def lr_at(self, epoch: float) -> float:
        """The learning rate after ``epoch`` epochs, a fraction inside one."""
        return (self.lr or 0.0) * self.schedule(epoch, self.epochs)

    def references(self) -> tuple[From, ...]:
        """The networks that the stage needs: what it starts from, then its teachers."""
        return (self.start, *(source for term in self.losses for source in term.teachers()))

    def smoke(self) -> Stage:
        """The same stage cut to two updates; captures, accumulation and freezing fall on its one epoch."""
        size, sharpness = min(self.batch_size, 32), self.sharpness
        if sharpness is not None and sharpness.shard is not None and sharpness.shard >= size:
            sharpness = replace(sharpness, shard=max(1, sharpness.shard * size // self.batch_size))
        cut = replace(
            self,
            batch_size=size,
            sharpness=sharpness,
            calibration_batches=None if self.policy is None else 1,
            reestimate_batches=min(self.reestimate_batches, 2),
        )
        if not self.epochs:
            return cut
        largest = max((n for _, n in self.accumulation), default=1)
        return replace(
            cut,
            accumulation=((0, largest),) if self.accumulation else (),
            epochs=1,
            captures=(1,) if self.captures else (),
            evaluate_every=1,
            freeze_batchnorm=None if self.freeze_batchnorm is None else 0,
            max_steps=SMOKE_STEPS * largest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A model, a data set and the stages it goes through.

    Attributes:
        name: PAPER-NETWORK-DATASET.
        model: a name for ``flatbit.models.build``, or ``package.module:function``.
        model_arguments: its arguments; ``num_classes`` and ``in_channels`` follow the data.
        data: a name for ``flatbit.data.load``.
        data_arguments: its arguments.
        stages: in order; a stage may start from any earlier one.
        settings: what the stages were made with, for the record.
        splits: which samples are held out of training, and which are tested; None trains on one split of the data,
            and scores the other after every epoch.

    Raises:
        ValueError: no stage, two of one name, or one that starts or learns from a stage that is not before it.
    """

    name: str
    model: str
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    data: str
    data_arguments: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    splits: Splits | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"recipe {self.name!r} has no stages: give it at least one")
        seen: set[From] = set()
        for stage in self.stages:
            if From.stage(stage.name) in seen:
                raise ValueError(f"recipe {self.name!r}: two stages are called {stage.name!r}")
            for source in stage.references():
                if source.kind == "stage" and source not in seen:
                    raise ValueError(
                        f"recipe {self.name!r}: stage {stage.name!r} needs {source}, which no earlier stage leaves: "
                        f"there are {', '.join(map(str, sorted(seen, key=str))) or 'none'}"
                    )
            seen.add(From.stage(stage.name))
            if stage.captures:
                seen.add(From.stage(stage.name, average=True))

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises KeyError where there is none."""
        return {stage.name: stage for stage in self.stages}[name]

    def smoke(self) -> Recipe:
        """The same recipe, every stage cut to two updates: does it run, not what does it reach."""
        return replace(self, stages=tuple(stage.smoke() for stage in self.stages))
