"""A plan before a run: everything that a recipe will do, resolved and checked before anything is trained.

The model is built once, on the meta device where its builder allows; every stage's policy is resolved on
it, references, teachers and captures are checked, cost is counted, and time is estimated. What the plan
accepts, the run executes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from .. import data as datasets
from .. import models, plain
from ..data.batches import Data
from ..quant.spec import LayerSpec
from ..quant.widths import short_bits
from ..reference import START
from ..text import as_text
from .checks import check_sources, check_steps, specs_of
from .draft import Draft
from .fit import fitted
from .recipe import Recipe, Stage
from .record import Totals
from .sources import Checkpoint
from .timing import estimate
from .words import in_words


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What one stage will do.

    Attributes:
        stage: its settings.
        specs: what each layer gets, by name; empty in float.
        bits: of the inner layers, ``W2/A2`` or ``float``.
        steps: mini-batches of an epoch, updates: of the whole stage.
        cost: of one image.
        seconds: how long it will take; None where nothing was timed.
    """

    stage: Stage
    specs: Mapping[str, LayerSpec]
    bits: str
    steps: int
    updates: int
    cost: Totals
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run will do, checked.

    Attributes:
        recipe: as it will be recorded: fitted to its data, cut short for a smoke run.
        data: the data set, with the samples that are trained on and tested.
        seed, device: of the run.
        checkpoint: what it was given to start from.
        built_on: ``meta``, or ``cpu`` where the builder, or a checkpoint that is loaded into the model, needs it.
        stages: in order.
        held_out: data whose test samples are the training samples that are held out; None where none are.
        notes: what was changed to fit, or looks wrong.
    """

    recipe: Recipe
    data: Data = field(repr=False)
    seed: int
    device: str
    checkpoint: Checkpoint | None
    built_on: str
    stages: tuple[StagePlan, ...]
    held_out: Data | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """How long the whole run will take; None where nothing was timed."""
        times = [planned.seconds for planned in self.stages if planned.seconds is not None]
        return sum(times) if len(times) == len(self.stages) else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "recipe": self.recipe.name,
            "model": self.recipe.model,
            "data": self.recipe.data,
            "seed": self.seed,
            "device": self.device,
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint.path),
            "built_on": self.built_on,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "stages": [_row(planned) for planned in self.stages],
        }

    def table(self) -> Table:
        """The stages as a table for a terminal."""
        title = f"{self.recipe.name}: {self.recipe.model} on {self.recipe.data}"
        table = Table("stage", "from", "bits", "epochs", "updates", "bit-operations", "bytes", "time", title=title)
        for planned in self.stages:
            row = _row(planned)
            numbers = f"{row['epochs']}", f"{row['updates']:,}", f"{row['bitops'] / 1e6:,.1f} M", f"{row['bytes']:,}"
            time = "-" if planned.seconds is None else in_words(planned.seconds)
            table.add_row(planned.stage.name, row["start"], short_bits(planned.bits), *numbers, time)
        if self.seconds is not None:
            table.caption = f"about {in_words(self.seconds)} on {self.device}"
        return table

    def __str__(self) -> str:
        return as_text(self.table(), *self.notes)


def plan(
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "cpu",
    data_dir: str | Path | None = None,
    checkpoint: Checkpoint | None = None,
    smoke: bool = False,
    timing: bool = False,
) -> Plan:
    """Plan a run; nothing is trained and nothing is written.

    Args:
        recipe: what to do.
        seed: of initialisation, order and augmentation.
        device: where to compute.
        data_dir: the folder with the data set's files, where it has files.
        checkpoint: float weights that stages from ``start`` start from.
        smoke: two updates per stage; the uncut recipe is checked all the same.
        timing: estimate how long it takes, from two timed updates per distinct stage.

    Raises:
        ValueError: whatever cannot be: unknown names, layers that a policy refuses, teachers that are missing
            or untrained, captures that have no average, a setting that no record can hold, data too few for an
            update, a checkpoint that no stage comes from.
    """
    models.accepts(recipe.model)  # an unknown model fails here; from here on its files may be loaded
    data = datasets.load(recipe.data, data_dir, **recipe.data_arguments)
    draft = Draft.of(recipe, data, checkpoint)
    recipe, data, notes = fitted(recipe, data, draft.model)
    data, held = (data, None) if recipe.splits is None else recipe.splits.of(data)
    specs = {stage.name: specs_of(draft.model, recipe, stage) for stage in recipe.stages}
    check_sources(draft.model, recipe, data, checkpoint)
    if checkpoint is not None and START not in {source for stage in recipe.stages for source in stage.references()}:
        raise ValueError(
            f"--checkpoint {checkpoint.path} cannot act: no stage starts or learns from {START}: leave it out"
        )
    if smoke:
        recipe = recipe.smoke()
        specs = {stage.name: specs_of(draft.model, recipe, stage) for stage in recipe.stages}
    _check_record(recipe)
    stages = [_planned(draft, data, stage, specs[stage.name], seed) for stage in recipe.stages]
    if timing:
        times = estimate(recipe, data, seed=seed, device=device)
        stages = [replace(planned, seconds=times[planned.stage.name]) for planned in stages]
    return Plan(
        recipe=recipe, data=data, seed=seed, device=str(device), checkpoint=checkpoint, built_on=draft.built_on,
        stages=tuple(stages), held_out=held, notes=(*notes, *draft.notes),
    )  # fmt: skip


def _check_record(recipe: Recipe) -> None:
    """Raise ValueError for a recipe that a record could not give back, equal."""
    back = plain.from_plain(Recipe, plain.to_plain(recipe), trust=True)
    if (place := _unlike(recipe, back)) is not None:
        raise ValueError(
            f"recipe {recipe.name!r}: {place.lstrip('.')} would not come back from a record as it is: expected "
            "numbers, text, lists, mappings with text for keys, and fields that a constructor takes"
        )


def _unlike(value: Any, back: Any, place: str = "") -> str | None:
    """Where two values differ; None where they do not. A list is a tuple: records have no other name for it."""
    pairs: list[tuple[str, Any, Any]] = []
    if dataclasses.is_dataclass(value) and type(value) is type(back) and not plain.has_codec(type(value)):
        names = plain.fields_of(type(value))
        pairs = [(f".{name}", getattr(value, name), getattr(back, name)) for name in names]
    elif isinstance(value, Mapping) and isinstance(back, Mapping) and value.keys() == back.keys():
        pairs = [(f".{key}", part, back[key]) for key, part in value.items()]
    elif isinstance(value, list | tuple) and isinstance(back, list | tuple) and len(value) == len(back):
        pairs = [(f"[{i}]", *both) for i, both in enumerate(zip(value, back, strict=True))]
    elif value != back:
        return place
    found = (_unlike(part, other, f"{place}{name}") for name, part, other in pairs)
    return next((inner for inner in found if inner is not None), None)


def _planned(draft: Draft, data: Data, stage: Stage, specs: Mapping[str, LayerSpec], seed: int) -> StagePlan:
    """What one stage will do. Raises ValueError where the data are too few for it."""
    batches = data.train_batches(stage.batch_size, seed=seed)
    check_steps(stage, len(batches), batches.num_samples)
    steps = min(len(batches), stage.max_steps or len(batches))
    bits, cost = draft.counted(specs, data.image_shape)
    return StagePlan(stage=stage, specs=specs, bits=bits, steps=steps, updates=stage.updates(steps), cost=cost)


def _row(planned: StagePlan) -> dict[str, Any]:
    stage = planned.stage
    return {
        "name": stage.name,
        "start": str(stage.start),
        "learns_from": [str(source) for source in stage.references()[1:]],
        "bits": planned.bits,
        "epochs": stage.epochs,
        "updates": planned.updates,
        "bitops": planned.cost.bitops,
        "bytes": planned.cost.size_bytes,
        "captures": list(stage.captures),
        "seconds": planned.seconds,
    }
