"""Time before a run: what its stages will take, from two timed updates of each that differs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from ..data.batches import Batches, Data
from ..device import device_of
from ..files import load
from ..metrics.evaluation import evaluate
from ..metrics.health import constant_output, suspects
from ..quant.calibrate import calibrate_
from ..quant.convert import quantize_
from ..quant.table import quantizers_of
from ..reference import From
from ..train.batchnorm import reestimate_batchnorm_
from ..train.schedules import Constant
from .fit import TEST_BATCH, build_model
from .loop import train
from .recipe import Recipe, Stage
from .sources import model_file
from .stage import optimizer_of

TIMED = 2
"""So many updates are timed, after one that warms up."""
NEXT_TO_NOTHING = 1e-30
"""The rate of these: they change no weight that counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """A pass over batches: seconds of the first, with what comes once, and of each further one."""

    first: float
    each: float

    @classmethod
    def of(cls, act: Callable[[Iterable[Any]], object], batches: Batches) -> Pass:
        """Time ``act`` on one batch and on two."""
        one = _timed(lambda: act(list(islice(batches, 1))))
        two = _timed(lambda: act(list(islice(batches, 2)))) if len(batches) > 1 else one
        return cls(first=one, each=max(two - one, 0.0))

    def seconds(self, count: int) -> float:
        """Of so many batches."""
        return self.first + max(count - 1, 0) * self.each if count else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a stage goes: seconds of an update's mini-batch, and of passes over the data."""

    step: float
    check: float
    calibration: Pass
    test: Pass
    statistics: Pass

    def seconds(self, stage: Stage, *, steps: int, tests: int, calibrated: int) -> float:
        """Of the whole stage, where an epoch has so many mini-batches, a test and calibration so many batches."""
        taken = min(steps, stage.max_steps or steps)
        looks = max(len(stage.looks()), 1) + bool(stage.reestimate_batches)
        training = stage.epochs * (taken * self.step + self.check)
        statistics = self.statistics.seconds(min(stage.reestimate_batches, steps))
        return self.calibration.seconds(calibrated) + training + looks * self.test.seconds(tests) + statistics


def estimate(recipe: Recipe, data: Data, *, seed: int, device: str) -> dict[str, float]:
    """Seconds that each stage of a recipe will take, by name.

    Stages that differ in length, rate or start alone are timed once. A stage's model is built afresh and
    calibrated on a batch or two; one update warms up, two are timed, and so are looks at the test set. Nothing
    is left of it but the numbers: the random state is as before.
    """
    known: list[tuple[Stage, Pace]] = []
    times = {}
    with torch.random.fork_rng(devices=[]):
        for stage in recipe.stages:
            kind = _kind(stage)
            pace = next((pace for other, pace in known if other == kind), None)
            if pace is None:
                pace = _pace(build_model(recipe, data).to(device), stage, data, seed)
                known.append((kind, pace))
            batches = data.train_batches(stage.batch_size, seed=seed)
            tests = len(data.test_batches(TEST_BATCH[data.task]))
            calibrated = min(stage.calibration_batches or _asked(recipe, data, stage), len(batches))
            times[stage.name] = pace.seconds(stage, steps=len(batches), tests=tests, calibrated=calibrated)
    return times


def _kind(stage: Stage) -> Stage:
    """The stage without what changes its length alone."""
    if not stage.epochs:
        return replace(stage, name="untrained", start=From())
    size = max(stage.batches_per_update(epoch) for epoch in range(stage.epochs))
    return replace(
        stage, name="trained", epochs=1, lr=NEXT_TO_NOTHING, schedule=Constant(), start=From(), captures=(),
        keep_captures=False, evaluate_every=1, freeze_batchnorm=None, max_steps=None,
        accumulation=((0, size),) if size > 1 else (),
    )  # fmt: skip


def _asked(recipe: Recipe, data: Data, stage: Stage) -> int:
    """How many batches the methods of a stage ask for to calibrate; 0 in float."""
    if stage.policy is None:
        return 0
    model = build_model(recipe, data)
    quantize_(model, stage.policy, strict=stage.strict)
    return max((quantizer.calibration_batches for _, quantizer in quantizers_of(model)), default=0)


def _pace(model: nn.Module, stage: Stage, data: Data, seed: int) -> Pace:
    """Time a stage's parts on a model that is built afresh."""
    device = device_of(model)
    batches = data.train_batches(stage.batch_size, seed=seed, device=device)
    test = data.test_batches(TEST_BATCH[data.task], device=device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    calibration = Pass(first=0.0, each=0.0)
    if stage.policy is not None:
        quantize_(model, stage.policy, strict=stage.strict)
        calibration = Pass.of(lambda some: calibrate_(model, some), batches)
    step = _step_seconds(model, stage, batches) if stage.epochs else 0.0
    x = next(iter(test))[0]
    return Pace(
        step=step,
        check=_timed(lambda: (suspects(model), constant_output(model, x))) if stage.epochs else 0.0,
        calibration=calibration,
        test=Pass.of(lambda some: evaluate(model, some), test),
        statistics=Pass.of(lambda some: reestimate_batchnorm_(model, some), batches)
        if stage.reestimate_batches
        else Pass(first=0.0, each=0.0),
    )


def _step_seconds(model: nn.Module, stage: Stage, batches: Batches) -> float:
    """Seconds of one mini-batch of an update: the mean of two updates, after one that warms up."""
    kind = _kind(stage)
    size = kind.batches_per_update(0)
    device = device_of(model)

    def teacher(source: From) -> nn.Module:
        return load(model_file(source)).to(device) if source.kind == "file" else model

    losses = tuple(term.bound(teacher) for term in stage.losses)
    optimizer = optimizer_of(model, stage)

    def update(count: int) -> None:
        train(model, replace(kind, max_steps=count * size), batches, optimizer, losses=losses)

    update(1)
    return _timed(lambda: update(TIMED)) / (size * min(TIMED, len(batches) // size))


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun
