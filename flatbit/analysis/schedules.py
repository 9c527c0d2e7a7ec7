"""Schedules as curves: the learning rate and the samples per update of each stage of a recipe, over its epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..engine.recipe import Recipe, Stage

POINTS = 1000  # of a curve, about: enough for what changes at every update
WIDE = 30.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """What one stage trains with.

    Attributes:
        stage: its name.
        epochs: how many.
        epoch: (n,) points in time, in epochs done, equally far apart; every whole epoch but the last is one.
        lr: (n,) the learning rate from each point up to the next.
        batch: (n,) samples in one update, of all its mini-batches where the stage accumulates gradients.
        captures: numbers of the finished epochs after which the model is captured.
    """

    stage: str
    epochs: int
    epoch: np.ndarray
    lr: np.ndarray
    batch: np.ndarray
    captures: tuple[int, ...]

    @property
    def batches(self) -> dict[int, int]:
        """Samples in one update, by the epoch from which on it is so."""
        changes = np.flatnonzero(np.diff(self.batch, prepend=0))
        return {int(self.epoch[i]): int(self.batch[i]) for i in changes}

    @property
    def capture_lr(self) -> np.ndarray:
        """The learning rate at the end of each captured epoch."""
        points = len(self.epoch) // max(self.epochs, 1)
        return self.lr[[points * epoch - 1 for epoch in self.captures]]

    @property
    def is_wide(self) -> bool:
        """Whether the rate needs a logarithmic axis: above 0, spread over more than 30x, and not only at its end.

        A cosine comes as near to 0 as one likes, in its last epochs; here at least a quarter of the
        stage has a tenth of the highest rate or less.
        """
        if not len(self.lr) or self.lr.min() <= 0:
            return False
        low = self.lr <= self.lr.max() / 10 * (1 + 1e-9)
        return self.lr.max() / self.lr.min() > WIDE and low.mean() >= 0.25


def schedule_curves(recipe: Recipe) -> tuple[Curve, ...]:
    """The curve of every stage of a recipe, in order; that of a stage without epochs has no points."""
    return tuple(_curve(stage) for stage in recipe.stages)


def _curve(stage: Stage) -> Curve:
    per_epoch = math.ceil(POINTS / max(stage.epochs, 1))
    epoch = np.arange(stage.epochs * per_epoch) / per_epoch
    peak = stage.lr or 0.0  # a stage without epochs may have none
    return Curve(
        stage=stage.name,
        epochs=stage.epochs,
        epoch=epoch,
        lr=np.array([peak * stage.schedule(float(t), stage.epochs) for t in epoch], dtype=float),
        batch=np.array([stage.batch_size * stage.batches_per_update(int(t)) for t in epoch], dtype=int),
        captures=tuple(sorted(stage.captures)),
    )
