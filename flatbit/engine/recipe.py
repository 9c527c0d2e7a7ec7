"""A recipe as data: a model, a data set, and the stages it goes through. The engine runs it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..quant.policy import Policy
from ..train.objective import Distillation, Objective, cross_entropy
from ..train.optimizers import OPTIMIZERS, OptimizerName
from ..train.schedules import Constant, Schedule
from ..train.sharpness import Sharpness

SMOKE_STEPS = 2
AVERAGE = ".average"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One piece of training: what is quantized, where it starts, how it descends.

    Attributes:
        name: of the stage, as results carry it (``uniq-w2a2``).
        epochs: how long; 0 only calibrates and evaluates.
        policy: what is quantized; None trains in float.
        strict: refuse a model with layers that cannot be quantized; False leaves those float.
        start: the earlier stage whose weights and batch norms it starts from, or ``NAME.average``, the
            average of that stage's captures; None for the model as it is built (or the weights that the
            run was given). From an average, a stage without a policy keeps the average's own grid, one
            with a policy re-quantizes it: weights get new steps, activations keep theirs.
        optimizer, lr, momentum, nesterov, weight_decay: of the optimizer; no decay on learned steps.
        schedule: factor of lr as a function of progress.
        batch_size: of a mini-batch.
        growth: ``((epoch, n), ...)``: from that epoch on, n mini-batches make one update (FAQ's
            virtual batch: gradients averaged, batch norm per mini-batch).
        calibration_batches: for ``calibrate_``; None for what the method asks.
        freeze_batchnorm: so many epochs done, batch norms use their running statistics and keep them; None
            trains them throughout. The scores around the first such epoch are reported.
        reestimate_batches: training batches to re-estimate batch-norm statistics from at the end; 0
            keeps those of training.
        objective: the loss.
        distillation: from which teacher, and how much (KD); None for labels alone.
        lipschitz: factor of HOL's Lipschitz term.
        sharpness: SAM, ASAM, SAQ or ASAQ around the optimizer; None for plain descent.
        fixed_weight_steps: learned steps and clips of weights stay as calibrated, so that captures share a grid.
        captures: numbers of finished epochs after which the model joins the stage's average (SQWA, SWA).
        evaluate_every: epochs between looks at the test set; after the last epoch and at captures there is
            always one. Nothing is chosen by them.
        keep_captures: also write each capture to a file of its own, ``stages/NAME@EPOCH.safetensors``.
        max_steps: per epoch; None for the whole epoch.
    """

    name: str
    epochs: int
    policy: Policy | None = None
    strict: bool = True
    start: str | None = None
    optimizer: OptimizerName = "sgd"
    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = field(default_factory=Constant)
    batch_size: int = 128
    growth: tuple[tuple[int, int], ...] = ()
    calibration_batches: int | None = None
    freeze_batchnorm: int | None = None
    reestimate_batches: int = 0
    objective: Objective = cross_entropy
    distillation: Distillation | None = None
    lipschitz: float = 0.0
    sharpness: Sharpness | None = None
    fixed_weight_steps: bool = False
    captures: tuple[int, ...] = ()
    keep_captures: bool = False
    evaluate_every: int = 1
    max_steps: int | None = None

    def __post_init__(self) -> None:
        self._check(
            "name", bool(re.fullmatch(r"\w[\w.+-]*", self.name)), "letters, digits and . _ + -: it names a file"
        )
        self._check_types()
        self._check("epochs", isinstance(self.epochs, int) and self.epochs >= 0, "0 or more")
        self._check("batch_size", isinstance(self.batch_size, int) and self.batch_size >= 1, "1 or more")
        whole = isinstance(self.evaluate_every, int) and self.evaluate_every >= 1
        self._check("evaluate_every", whole, "1 or more")
        self._check("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}")
        self._check("lr", _is_number(self.lr) and self.lr >= 0, "0 or more")
        self._check("momentum", _is_number(self.momentum) and 0 <= self.momentum < 1, "0 or more, below 1")
        self._check("weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "0 or more")
        self._check("lipschitz", _is_number(self.lipschitz) and self.lipschitz >= 0, "0 or more")
        within = all(isinstance(epoch, int) and 1 <= epoch <= self.epochs for epoch in self.captures)
        once = len({*self.captures}) == len(self.captures)
        self._check("captures", within and once, f"numbers of finished epochs, 1 to {self.epochs}, each once")
        freezes = self.freeze_batchnorm is None or 0 <= self.freeze_batchnorm <= self.epochs
        self._check("freeze_batchnorm", freezes, f"an epoch from 0 to {self.epochs}, or None")
        self._check("reestimate_batches", self.reestimate_batches >= 0, "0 or more")
        self._check("max_steps", self.max_steps is None or self.max_steps >= 1, "1 or more, or None")
        grows = all(epoch >= 0 and n >= 1 for epoch, n in self.growth)
        self._check("growth", grows, "pairs of an epoch and a number of mini-batches, 1 or more")

    def _check_types(self) -> None:
        """Raise ValueError for a part that is no object of its class, such as the name of one."""
        for name, kind in (("policy", Policy), ("sharpness", Sharpness), ("distillation", Distillation)):
            value = getattr(self, name)
            self._check(name, value is None or isinstance(value, kind), f"a {kind.__name__}, or None")
        self._check("schedule", isinstance(self.schedule, Schedule), "a Schedule, as Cosine()")
        self._check("captures", isinstance(self.captures, tuple), "a tuple of numbers of epochs")
        pairs = isinstance(self.growth, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in self.growth)
        self._check("growth", pairs, "a tuple of pairs (epoch, number of mini-batches)")
        whole = self.freeze_batchnorm is None or isinstance(self.freeze_batchnorm, int)
        self._check("freeze_batchnorm", whole, "a number of epochs, or None")

    def _check(self, name: str, right: bool, expected: str) -> None:
        if not right:
            raise ValueError(f"stage {self.name!r}: {name}={getattr(self, name)!r}: expected {expected}")

    def batches_per_update(self, epoch: int) -> int:
        """n of ``growth`` at an epoch: how many mini-batches make one update."""
        return max((n for start, n in self.growth if epoch >= start), default=1)

    def smoke(self) -> Stage:
        """The same stage cut to two updates; captures, growth and freezing fall on its one epoch."""
        largest = max((n for _, n in self.growth), default=1)
        return replace(
            self,
            growth=((0, largest),) if self.growth else (),
            epochs=min(self.epochs, 1),
            captures=(1,) if self.captures else (),
            freeze_batchnorm=None if self.freeze_batchnorm is None else 0,
            max_steps=SMOKE_STEPS * largest,
            batch_size=min(self.batch_size, 32),
            calibration_batches=1,
            reestimate_batches=min(self.reestimate_batches, 2),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A model, a data set and the stages it goes through.

    Attributes:
        name: PAPER-NETWORK-DATASET.
        model: a name for ``flatbit.models.build``, or ``package.module:function``.
        model_arguments: its arguments; ``num_classes`` and ``in_channels`` follow the data.
        data: a name for ``flatbit.data.load``.
        stages: in order; a stage may start from any earlier one.
        parameters: what the recipe was called with, for the record.
    """

    name: str
    model: str
    model_arguments: Mapping[str, Any] = field(default_factory=dict)
    data: str
    data_arguments: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError(f"recipe {self.name!r} has no stages: give it at least one")
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen:
                raise ValueError(f"recipe {self.name!r}: two stages are called {stage.name!r}")
            if stage.start is not None and stage.start not in seen:
                raise ValueError(
                    f"recipe {self.name!r}: stage {stage.name!r} starts from {stage.start!r}, which is no earlier stage"
                )
            seen.add(stage.name)
            if stage.captures:
                seen.add(f"{stage.name}{AVERAGE}")

    def smoke(self) -> Recipe:
        """The same recipe, every stage cut to two updates: does it run, not what does it reach."""
        return replace(self, stages=tuple(stage.smoke() for stage in self.stages))
