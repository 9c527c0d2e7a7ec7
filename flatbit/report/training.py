"""How each stage of a run was trained, in words, from its record."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.recipe import Stage
from ..engine.record import RunRecord
from ..reference import START, From
from ..train.losses.labels import CrossEntropy


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """One stage in words.

    Attributes:
        stage, start: its name, and what it started from.
        epochs: how many.
        descent: optimizer, rate, schedule, batch, decay.
        besides: sharpness, loss terms and teachers, fixed steps, captures with their scores, batch-norm steps.
    """

    stage: str
    start: str
    epochs: int
    descent: str
    besides: str


def trainings(record: RunRecord) -> list[Training]:
    """How every finished stage of a run was trained."""
    return [_training(stage, record) for stage in record.finished()]


def _training(stage: Stage, record: RunRecord) -> Training:
    return Training(
        stage=stage.name,
        start=_source(stage.start, record),
        epochs=stage.epochs,
        descent=_descent(stage) if stage.epochs else "not trained",
        besides="; ".join(_besides(stage, record)),
    )


def _source(source: From, record: RunRecord) -> str:
    """Where a network comes from, in words."""
    if source == START:
        return "as built" if record.checkpoint is None else f"checkpoint {record.checkpoint.file}"
    return f"average of {source.name}" if source.average else source.name


def _descent(stage: Stage) -> str:
    decay = f", decay {stage.weight_decay:g}" if stage.weight_decay else ""
    grows = ", ".join(f"x{n} from epoch {epoch}" for epoch, n in stage.accumulation)
    batch = f"batch {stage.batch_size}" + (f" ({grows})" if grows else "")
    return f"{stage.optimizer}, lr {stage.lr:g}, {stage.schedule}, {batch}{decay}"


def _besides(stage: Stage, record: RunRecord) -> list[str]:
    entry, said = record.stages[stage.name], []
    if (flat := stage.sharpness) is not None:
        said.append(f"{flat.method.upper()}, rho {flat.rho:g}")
    if stage.losses != (CrossEntropy(),):
        terms = [f"{term.weight:g} {term.name}" for term in stage.losses]
        teachers = [f"teacher {_source(source, record)}" for term in stage.losses for source in term.teachers()]
        said.append(", ".join([f"loss {' + '.join(terms)}", *teachers]))
    if stage.fixed_weight_steps:
        said.append("steps of weights fixed")
    captures = [epoch for epoch in entry.epochs if epoch.capture is not None]
    if captures:
        listed = ", ".join(f"{epoch.epoch} ({epoch.score(entry.metric):.2f} %)" for epoch in captures)
        said.append(f"captured after epochs {listed}")
    said += map(str, entry.batchnorm)
    if entry.held_out is not None:
        kept = ", the net that is kept" * (stage.name == record.kept)
        said.append(f"{entry.held_out:.2f} % of held-out training images{kept}")
    return said
