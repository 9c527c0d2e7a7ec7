"""What is told after each epoch: ``RUN/epochs.csv``, TensorBoard where asked, and callbacks of the user's."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import nn

from .recipe import Recipe, Stage
from .record import EpochRecord, RunRecord

EPOCHS = "epochs.csv"
TENSORBOARD = "tensorboard"
INSTALL = 'tensorboard is not installed: pip install "flatbit[tensorboard]"'


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EpochEnd:
    """What a callback is told after an epoch.

    Attributes:
        out: the run's folder.
        stage: its settings.
        epoch: its numbers.
        model: as the epoch left it, in eval mode where the test set was looked at; a callback leaves it as it is.
    """

    out: Path
    stage: Stage
    epoch: EpochRecord
    model: nn.Module


Callback = Callable[[EpochEnd], None]
"""Called after each epoch, in the order given; what it raises ends the run, which ``resume`` repeats that epoch of."""


class EpochTable:
    """``RUN/epochs.csv``: a row per epoch, a column per number, and one per loss term, ``loss.NAME``.

    A number that was not taken is an empty cell.
    """

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self.path = out / EPOCHS
        terms = dict.fromkeys(f"loss.{term.name}" for stage in recipe.stages for term in stage.losses)
        self.columns = ["stage", *(f.name for f in fields(EpochRecord) if f.name != "losses"), *terms]

    def begin(self, record: RunRecord, stage: Stage, history: Sequence[EpochRecord]) -> None:
        """Write what is done anew: finished stages and this one's history. What a run lost when it was cut off goes."""
        done = [(name, epoch) for name, entry in record.stages.items() for epoch in entry.epochs]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(_row(*each) for each in [*done, *((stage.name, epoch) for epoch in history)])

    def __call__(self, end: EpochEnd) -> None:
        """Add an epoch."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(_row(end.stage.name, end.epoch))


@dataclass(eq=False)
class TensorBoard:
    """A callback that writes each epoch's numbers to ``RUN/tensorboard/STAGE``, as scalars over epochs.

    ``tensorboard --logdir runs`` shows them. A run that goes on takes the place of what it repeats.

    Raises ImportError with what to install, where the package is missing.
    """

    _writers: dict[Path, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(INSTALL) from error
        self._make = SummaryWriter

    def __call__(self, end: EpochEnd) -> None:
        """Add an epoch."""
        folder, number = end.out / TENSORBOARD / end.stage.name, end.epoch.epoch
        if folder not in self._writers:
            self._writers[folder] = self._make(str(folder), purge_step=number)
        row = _row(end.stage.name, end.epoch)
        for name, value in row.items():
            if name not in ("stage", "epoch") and value is not None:
                self._writers[folder].add_scalar(name, value, number)
        self._writers[folder].flush()
        if number == end.stage.epochs:
            self._writers.pop(folder).close()


def _row(stage: str, epoch: EpochRecord) -> dict[str, Any]:
    """An epoch's numbers by column."""
    numbers = {f.name: getattr(epoch, f.name) for f in fields(EpochRecord) if f.name != "losses"}
    return {"stage": stage} | numbers | {f"loss.{name}": value for name, value in epoch.losses.items()}
