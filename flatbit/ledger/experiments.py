"""Experiments: the runs that fill the ledger, a file per paper; each says its recipe, start, and which rows it fills.

title = "SAQ"                               and notes, for pages; then every experiment:
["resnet20-saq-4"]                          named saq/resnet20-saq-4
what = "Tables A, C, E: ResNet-20, SAQ"
recipe = "saq-preresnet20-cifar100"
settings = { weights = 4, activations = 4 }
start = "saq/resnet20-float"                the model of that run, or a stage of it: NAME:STAGE
fills = ["SAQ-TC-11", ...]                  by the last stage, or by points: [NAME.fills] "retrain@76" = [...]
"""

from __future__ import annotations

import inspect
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..engine.recipe import Recipe
from ..engine.record import decisive
from ..recipes import RECIPES, Network
from ..registry import nearest
from ..settings import as_options
from .published import published

FOLDER = Path(__file__).parent / "experiments"
RUN = "run:"
"""A setting that begins so names a run's folder: a teacher."""
FILE = "file:"
"""A start that begins so is a file in the data sets' folder, such as published weights."""
LENGTH = {"epochs", "schedule", "captures", "evaluate_every", "accumulation", "freeze_batchnorm"}
"""Of a stage: its epochs, and what is counted in them."""
WITHOUT_FILES = {"spirals", "digits"}
"""Data sets that are made or come along."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What of a run a row is filled by: a stage, at its end or after an epoch; the last stage where none is named."""

    stage: str = ""
    epoch: int | None = None

    @classmethod
    def parse(cls, text: str) -> Point:
        """Read ``STAGE``, ``STAGE@EPOCH`` or nothing."""
        stage, _, epoch = text.partition("@")
        return cls(stage=stage, epoch=int(epoch) if epoch else None)

    def __str__(self) -> str:
        return self.stage + ("" if self.epoch is None else f"@{self.epoch}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A run, and the rows that it fills.

    Attributes:
        name: PAPER/NAME.
        what: the tables and figures that it belongs to, in words.
        recipe, model, model_args, data, data_args, settings: as ``flatbit run`` takes them.
        start: another experiment whose model it starts from (NAME or NAME:STAGE), or ``file:NAME`` in the data sets'
            folder; None from scratch.
        fills: ids of rows, by point.
    """

    name: str
    what: str
    recipe: str
    model: str | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    data_args: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    fills: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def paper(self) -> str:
        """The file that it stands in: ``saq``."""
        return self.name.partition("/")[0]

    @property
    def dataset(self) -> str:
        """The name of its data set."""
        return self.data or RECIPES.get(self.recipe).data

    @property
    def has_files(self) -> bool:
        """Whether its data set has files."""
        return self.dataset not in WITHOUT_FILES

    @property
    def given(self) -> str | None:
        """The name of the file that it starts from; None where it starts from another experiment, or none."""
        return self.start.removeprefix(FILE) if self.start is not None and self.start.startswith(FILE) else None

    def needs(self) -> tuple[str, ...]:
        """The experiments that come before it: whose model it starts from, or learns from."""
        learnt = [value for value in self.settings.values() if isinstance(value, str) and value.startswith(RUN)]
        names = [value.removeprefix(RUN) for value in learnt]
        if self.start is not None and self.given is None:
            names.insert(0, self.start.partition(":")[0])
        return tuple(dict.fromkeys(names))

    def made(self, folder_of: Callable[[str], Path] = Path) -> Recipe:
        """The recipe, whole.

        Args:
            folder_of: where the run of an experiment lies, or its model.
        """
        network = Network(model=self.model, arguments=self.model_args)
        made = RECIPES.get(self.recipe).recipe(self.recipe, self._settings(folder_of), network, self.data)
        return replace(made, data_arguments=dict(self.data_args))

    def command(self) -> str:
        """The command that makes the run: ``flatbit run ...``; DIR stands for the data sets' folder."""
        words = ["flatbit", "run", self.recipe]
        words += ["--model", self.model] if self.model else []
        words += as_options("--model-arg", self.model_args)
        words += ["--data", self.data] if self.data else []
        words += ["--data-dir", "DIR"] if self.has_files else []
        words += as_options("--data-arg", self.data_args)
        words += ["--checkpoint", self._checkpoint()] if self.start else []
        words += as_options("--set", self._settings(lambda name: Path("runs") / name))
        return shlex.join([*words, "--out", f"runs/{self.name}"])

    def _settings(self, folder_of: Callable[[str], Path]) -> dict[str, Any]:
        """The settings with teachers as files; what starts from weights trains none."""
        found = {name: _located(value, folder_of) for name, value in self.settings.items()}
        trains = "pretraining" in inspect.signature(RECIPES.get(self.recipe).stages).parameters
        return ({"pretraining": "none"} if self.start is not None and trains else {}) | found

    def _checkpoint(self) -> str:
        assert self.start is not None
        if self.given is not None:
            return f"DIR/{self.given}"
        name, _, stage = self.start.partition(":")
        return f"runs/{name}/" + (f"stages/{stage}.safetensors" if stage else "model.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """A file of experiments.

    Attributes:
        name: of the file: ``saq``.
        title, notes: for pages.
        experiments: in order.
    """

    name: str
    title: str
    notes: str
    experiments: tuple[Experiment, ...]


@lru_cache
def papers() -> tuple[Paper, ...]:
    """The files of experiments: the papers' in the order of the published rows, then the others."""
    order = list(dict.fromkeys(row.paper.lower() for row in published()))

    def place(path: Path) -> tuple[int, str]:
        return order.index(path.stem) if path.stem in order else len(order), path.stem

    return tuple(_read_paper(path) for path in sorted(FOLDER.glob("*.toml"), key=place))


@lru_cache
def experiments() -> Mapping[str, Experiment]:
    """All of them, by name, in the order of their files."""
    return {entry.name: entry for paper in papers() for entry in paper.experiments}


def experiment(name: str) -> Experiment:
    """The experiment of that name. Raises ValueError with the nearest names."""
    if name not in experiments():
        raise ValueError(f"no experiment {name!r}: {nearest(name, experiments())}")
    return experiments()[name]


@lru_cache
def filled_by() -> Mapping[str, tuple[Experiment, Point]]:
    """The experiment and the point that fill each row, by the row's id."""
    return {
        row: (entry, Point.parse(point))
        for entry in experiments().values()
        for point, rows in entry.fills.items()
        for row in rows
    }


def chain(entry: Experiment) -> Iterator[str]:
    """Everything that must be there before an experiment, by name, the first needed first; it may come again."""
    for needed in entry.needs():
        yield from chain(experiment(needed))
        yield needed


def likeness(recipe: Any) -> Any:
    """Plain values of a recipe without what differs between folders: equal for runs of one experiment.

    Args:
        recipe: plain values, as a record holds them.
    """
    return _without_files({key: part for key, part in decisive(recipe).items() if key != "name"})


def unmeasured(recipe: Any) -> Any:
    """``likeness`` without how long stages train, and what follows from it: equal for a run cut short."""
    kept = likeness(recipe)
    return kept | {"stages": [{k: v for k, v in stage.items() if k not in LENGTH} for stage in kept["stages"]]}


def _without_files(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_files(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_files(part) for part in value]
    return FILE if isinstance(value, str) and value.startswith(FILE) else value


def _read_paper(path: Path) -> Paper:
    found = tomllib.loads(path.read_text())
    title, notes = found.pop("title"), found.pop("notes")
    made = tuple(_read(f"{path.stem}/{key}", entry) for key, entry in found.items())
    return Paper(name=path.stem, title=title, notes=notes, experiments=made)


def _read(name: str, entry: dict[str, Any]) -> Experiment:
    fills = entry.pop("fills", {})
    by_point = fills if isinstance(fills, dict) else {"": fills}
    return Experiment(name=name, fills={point: tuple(rows) for point, rows in by_point.items()}, **entry)


def _located(value: Any, folder_of: Callable[[str], Path]) -> Any:
    if not isinstance(value, str) or not value.startswith(RUN):
        return value
    return f"{FILE}{folder_of(value.removeprefix(RUN))}"
