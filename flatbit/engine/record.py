"""Records: what a run was, and what it reached, as facts with types; ``run.json`` holds them as plain values."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import plain
from ..atomic import replacing
from ..metrics.evaluation import Metrics
from ..metrics.health import Finding
from ..plugins import Plugin, changed_since, check_plugins
from ..quant.cost import Cost
from .environment import Environment
from .exported import Exported
from .recipe import Recipe, Stage
from .way import EAGER, Precision, Way

FORMAT = 2
RECORD = "run.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """One epoch in numbers; accuracies in percent.

    Attributes:
        epoch: its number, from 1.
        lr: of its last update.
        train_loss, train_top1: means over its samples, as they were trained on.
        losses: mean of each loss term before its weight, by name.
        images_per_s, seconds: of training.
        test_top1, test_loss, test_miou: after it, where the test set was looked at.
        held_out: the score after it on held-out training samples, which are looked at instead where there are any.
        capture: the number of the capture taken after it.
    """

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    losses: Mapping[str, float] = field(default_factory=dict)
    images_per_s: float
    seconds: float
    test_top1: float | None = None
    test_loss: float | None = None
    test_miou: float | None = None
    held_out: float | None = None
    capture: int | None = None

    def score(self, metric: str) -> float | None:
        """The score by ``top1`` or ``miou`` on what is looked at after epochs; None where nothing was."""
        if self.held_out is not None:
            return self.held_out
        return self.test_miou if metric == "miou" else self.test_top1


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchNormChange:
    """A step in the life of the batch norms, and the score before and after it.

    Attributes:
        step: in words.
        before, after: in percent, on the test set, or on ``held_out`` training samples.
        undone: whether it was taken back, for it scored less.
    """

    step: str
    before: float
    after: float
    held_out: bool = False
    undone: bool = False

    def __str__(self) -> str:
        words = f"batch norm {self.step}: {self.before:.2f} to {self.after:.2f} %"
        return words + " of held-out images" * self.held_out + ", undone" * self.undone


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """Cost of one image: bit-operations, multiply-adds, parameters, bytes of the packed model."""

    bitops: int
    macs: int
    params: int
    size_bytes: int

    @classmethod
    def of(cls, cost: Cost) -> Totals:
        """The totals of a cost."""
        return cls(bitops=cost.bitops, macs=cost.macs, params=cost.params, size_bytes=cost.size_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """What a finished stage reached.

    Attributes:
        metric: what its score is: ``top1`` or ``miou``, in percent.
        test: on the test set at the end, with convention and proof.
        held_out: its score on held-out training samples at the end; None where none are.
        best_test: the best score of any epoch on the test set: an optimistic selection, for comparison only.
        cost: of one image.
        seconds: of training.
        way: how updates were run, and in which precision; evaluation is eager, in float32.
        epochs: one record each.
        batchnorm: what freezing and re-estimating changed.
    """

    metric: str
    test: Metrics
    held_out: float | None = None
    best_test: float | None = None
    cost: Totals
    seconds: float
    way: Way = EAGER
    epochs: tuple[EpochRecord, ...] = ()
    batchnorm: tuple[BatchNormChange, ...] = ()

    @property
    def score(self) -> float:
        """The test score at the end, in percent."""
        return self.test.score[1]

    def at_chance(self, classes: int) -> bool:
        """Whether a classifier's score is at most 1.5 times that of guessing."""
        return self.metric == "top1" and self.test.top1 <= 150 / classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a run stopped: in which stage, in words, and what the layers showed."""

    stage: str
    message: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenCheckpoint:
    """The checkpoint that a run was given: its file's name and digest, and what its float network scores.

    Records from before digests were kept have none.
    """

    file: str
    sha256: str | None = None
    test: Metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What a run is and has reached so far.

    Attributes:
        recipe: resolved, every setting of every stage.
        seed, device, environment, precision: what else decides the numbers.
        checkpoint: what it was given to start from, if anything.
        stages: of the finished stages, by name, in order.
        kept: the stage whose net the run leaves, where the last one's scores less on held-out samples.
        failure: why it stopped, where it did.
        plugins: the user's files, and installed packages, that it was made with, and what it needs of each.
        left_out: files of the data that could not be read, and why.
        exports: what ``flatbit export`` wrote last of each net in each form: ``{"qdq": ...}``, of a stage
            ``{"float/qdq": ...}``.
    """

    recipe: Recipe
    seed: int
    device: str
    environment: Environment
    precision: Precision = "float32"
    checkpoint: GivenCheckpoint | None = None
    stages: Mapping[str, StageRecord] = field(default_factory=dict)
    kept: str | None = None
    failure: Failure | None = None
    plugins: tuple[Plugin, ...] = field(default=(), metadata=plain.if_any())
    left_out: Mapping[str, str] = field(default_factory=dict)
    exports: Mapping[str, Exported] = field(default_factory=dict, metadata=plain.if_any())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the number of their format. Raises ValueError for what has no name (``flatbit.plain``)."""
        return {"format": FORMAT} | plain.to_plain(self)

    @classmethod
    def from_dict(cls, found: Any, *, trust: bool = False) -> RunRecord:
        """The record that ``as_dict`` wrote, equal.

        Args:
            found: plain values.
            trust: let ``module:Class`` in it be imported.

        Raises:
            ValueError: another format, or values that do not fit.
        """
        _check_format(found)
        return plain.from_plain(cls, {key: part for key, part in found.items() if key != "format"}, trust=trust)

    def with_stage(self, name: str, entry: StageRecord) -> RunRecord:
        """The record with one stage more, and no failure."""
        return replace(self, stages=dict(self.stages) | {name: entry}, failure=None)

    def with_export(self, entry: Exported) -> RunRecord:
        """The record with an exported file more, in place of an earlier one of its net and form."""
        return replace(self, exports=dict(self.exports) | {entry.name: entry})

    def finished(self) -> list[Stage]:
        """The stages of the recipe that are done, in order."""
        return [stage for stage in self.recipe.stages if stage.name in self.stages]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run: its folder, and its record as ``run.json`` holds it."""

    folder: Path
    record: RunRecord

    def stage_file(self, name: str) -> Path:
        """The model file of a finished stage."""
        return self.folder / "stages" / f"{name}.safetensors"

    @property
    def finished(self) -> str:
        """When, in UTC: its last net was written, or the record of what went wrong; exports write the record later."""
        path = self.folder / RECORD
        if self.record.failure is None and (net := self.stage_file(self.record.recipe.stages[-1].name)).is_file():
            path = net
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _check_format(found: Any) -> None:
    """Raise ValueError for plain values that are no record of this version's format."""
    if not isinstance(found, Mapping) or "recipe" not in found:
        raise ValueError("no record of a run: it has no recipe")
    if (number := found.get("format", 1)) != FORMAT:
        writer = "an older" if number == 1 else "another"
        raise ValueError(f"a record of format {number}, written by {writer} version: this version reads {FORMAT}")


def read_plain(folder: str | Path) -> Mapping[str, Any]:
    """The plain values of a run's record, nothing made of them yet. Raises ValueError where there is none."""
    path = Path(folder) / RECORD
    if not path.is_file():
        runs = ", ".join(sorted(each.parent.name for each in Path(folder).glob(f"*/{RECORD}")))
        raise ValueError(f"no run in {folder}: it has no {RECORD}{runs and f'; name one of those in it: {runs}'}")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    try:
        _check_format(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return found


def read_run(folder: str | Path, *, trust: bool = False) -> Run:
    """Read a run's folder; nothing is imported unless it is trusted. What has changed of its plug-ins is warned of.

    Raises ValueError where there is no run, or for one that needs a plug-in that is not loaded.
    """
    found = read_plain(folder)
    try:
        plugins = plain.from_plain(tuple[Plugin, ...], found.get("plugins", []), "plugins")
        check_plugins(plugins)
        record = RunRecord.from_dict(found, trust=trust)
    except ValueError as error:
        raise ValueError(f"{Path(folder) / RECORD}: {error}") from error
    for line in changed_since(plugins):
        warnings.warn(f"{folder}: {line}", stacklevel=2)
    return Run(folder=Path(folder), record=record)


def write_record(folder: Path, record: RunRecord) -> RunRecord:
    """Write a run's record, whole or not at all; returns it."""
    with replacing(folder / RECORD) as partial:
        partial.write_text(json.dumps(record.as_dict(), indent=1))
    return record


def decisive(recipe: Any) -> Any:
    """What of a recipe's plain values decides a run: all but the settings that its stages were made with."""
    return {key: part for key, part in recipe.items() if key != "settings"} if isinstance(recipe, Mapping) else recipe


def first_difference(there: Any, here: Any, place: str = "") -> str:
    """Where two plain values begin to differ, and how, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        key = next(key for key in {**there, **here} if there.get(key) != here.get(key))
        return first_difference(there.get(key), here.get(key), f"{place}.{key}".lstrip("."))
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        index = next(index for index, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
        return first_difference(there[index], here[index], f"{place}[{index}]")
    return f"its {place} is {there!r:.60}, here it is {here!r:.60}"
