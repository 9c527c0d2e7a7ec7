"""The run: take a plan through its stages, leave one folder, go on where a run was cut off.

run.json                     recipe, versions, seed, device; per stage the convention, cost and epochs
model.safetensors            the last stage's model, or the one that scores best on held-out samples
epochs.csv                   a row per epoch
stages/NAME.safetensors      each finished stage's model
checkpoint/                  the stage in progress
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import plain
from ..metrics.evaluation import Metrics, evaluate
from ..metrics.scores import LABELS
from ..plugins import plugins_behind
from ..reference import START, From
from .fit import TEST_BATCH, build_model
from .loggers import Callback, EpochTable
from .loop import TrainingError
from .measuring import best_stage, measure
from .planning import Plan
from .recipe import Stage
from .record import (
    RECORD,
    Environment,
    Failure,
    GivenCheckpoint,
    Run,
    RunRecord,
    StageRecord,
    decisive,
    first_difference,
    read_plain,
    read_run,
    write_record,
)
from .sources import Checkpoint, Sources
from .stage import Work, descend, in_its_way, keep, prepare
from .way import Asked, Precision

Say = Callable[[str], None]


def run(
    plan: Plan,
    out: str | Path,
    *,
    resume: bool = False,
    engine: str | None = None,
    precision: Precision = "float32",
    recompute: bool = False,
    callbacks: Sequence[Callback] = (),
    say: Say = lambda line: None,
) -> Run:
    """Execute a plan.

    Args:
        plan: what to do (``flatbit.engine.plan``).
        out: the folder to leave; made if missing.
        resume: go on in ``out``: finished stages are kept, the one in progress goes on exactly.
        engine: how updates are run: ``eager``, ``graphs``, ``compiled``, ``compiled-graphs``; ``auto`` tries those that
            the device has and takes the fastest; None for ``auto`` on CUDA, else ``eager``. A stage that goes on keeps
            its own.
        precision: of products in training, ``float32``, ``tf32`` or ``bf16``.
        recompute: compute quantized tensors again in the backward pass, in place of keeping them.
        callbacks: called after each epoch with an ``EpochEnd``: ``TensorBoard()``, or functions of yours.
        say: called with a line as stages finish.

    Raises:
        ValueError: ``out`` holds a run and ``resume`` is off, or holds another run, or one of another checkpoint or
            precision; an engine or precision that is unknown, or that the device has not.
        TrainingError: a stage diverged or collapsed; the folder keeps what was finished, the last sound
            checkpoint, and in the record what the layers showed (``flatbit doctor`` explains it).
    """
    for note in plan.notes:
        say(note)
    asked = Asked(engine=engine, precision=precision, recompute=recompute)
    asked.way(plan.device)
    check_recompute(plan, recompute)
    execution = Execution.open(plan, Path(out), precision=precision, resume=resume, callbacks=callbacks, say=say)
    for stage in plan.recipe.stages:
        if stage.name not in execution.record.stages:
            execution.train(stage, asked)
    return execution.close()


@dataclass(kw_only=True, slots=True, eq=False)
class Execution:
    """A run in progress.

    Attributes:
        plan: what to do.
        record: what it has reached, as its folder holds it.
        sources: of its networks; they know the folder.
        table: of its epochs.
        callbacks: called after each epoch, as the table is.
        say: called with a line as stages finish.
    """

    plan: Plan
    record: RunRecord
    sources: Sources
    table: EpochTable
    callbacks: Sequence[Callback]
    say: Say

    @classmethod
    def open(
        cls, plan: Plan, out: Path, *, precision: Precision, resume: bool, callbacks: Sequence[Callback], say: Say
    ) -> Execution:
        """Begin a run in a folder, or go on with the one that is there. Raises ValueError as ``run`` says."""
        record = _opened(plan, precision, out, resume, say)
        if plan.checkpoint is not None and record.checkpoint is None:
            record = write_record(out, replace(record, checkpoint=_measured(plan, plan.checkpoint, say)))
        sources = Sources(recipe=plan.recipe, data=plan.data, out=out, checkpoint=plan.checkpoint)
        table = EpochTable(out, plan.recipe)
        return cls(plan=plan, record=record, sources=sources, table=table, callbacks=callbacks, say=say)

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.sources.out

    def begin(self, stage: Stage) -> Work:
        """What a stage trains, from its start or from the checkpoint."""

        def teacher(source: From) -> nn.Module:
            return self.sources.network(source).to(self.plan.device)

        torch.manual_seed(self.plan.seed)
        model = self.sources.begin(stage).to(self.plan.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        losses = tuple(term.bound(teacher) for term in stage.losses)
        work = prepare(
            model, stage, self.plan.data, self.out, seed=self.plan.seed, losses=losses, held_out=self.plan.held_out,
            note=self.say,
        )  # fmt: skip
        self.table.begin(self.record, stage, work.position.history)
        return replace(work, callbacks=(self.table, *self.callbacks))

    def train(self, stage: Stage, asked: Asked) -> None:
        """Take one stage from its start to its files. Raises TrainingError, which the record then holds."""
        work = in_its_way(self.begin(stage), asked)
        if work.position.begun:
            at, steps = work.position, f" and {work.position.step} steps" * bool(work.position.step)
            self.say(f"{stage.name}: goes on after {at.epoch} of {stage.epochs} epochs{steps}")
        try:
            last = descend(work)
        except TrainingError as error:
            raise self.fail(stage, error) from error
        self.finish(work, last)

    def finish(self, work: Work, last: Metrics | None) -> None:
        """Measure a trained stage and leave its files; ``last`` is what its last epoch scored, if known."""
        stage = work.stage
        given = self.record.checkpoint
        test = given.test if given is not None and _only_measures(stage) else None
        entry = measure(work, last, test)
        keep(work)
        self._keep(self.record.with_stage(stage.name, entry))
        shutil.rmtree(self.out / "checkpoint", ignore_errors=True)
        _say_stage(stage, entry, self.plan.data.num_classes, self.say)

    def fail(self, stage: Stage, error: TrainingError) -> TrainingError:
        """Record why a stage could not go on; the error to raise of it."""
        failure = Failure(stage=stage.name, message=str(error), findings=error.findings)
        self._keep(replace(self.record, failure=failure))
        return TrainingError(f"{error}. `flatbit doctor {self.out}` explains", error.findings)

    def _keep(self, record: RunRecord) -> None:
        """Write the record, with what was exported of finished stages since it was read."""
        exports = read_run(self.out, trust=True).record.exports  # it names what this recipe names
        self.record = write_record(self.out, replace(record, exports=exports))

    def close(self) -> Run:
        """The run, all of whose stages are done: its model is the last one's, or the best one's on held-out samples."""
        if self.plan.data.left_out:
            self._keep(replace(self.record, left_out=dict(self.plan.data.left_out)))
            _say_left_out(self.plan, self.say)
        best, last = best_stage(self.record), self.plan.recipe.stages[-1].name
        if best != last:
            self.record = write_record(self.out, replace(self.record, kept=best))
            _say_kept(self.record, best, last, self.say)
        done = Run(folder=self.out, record=self.record)
        shutil.copyfile(done.stage_file(best), self.out / "model.safetensors")
        return done


def _only_measures(stage: Stage) -> bool:
    """Whether a stage's net is what the run is given, as it is."""
    return stage.start == START and stage.policy is None and not stage.epochs and not stage.reestimate_batches


def check_recompute(plan: Plan, recompute: bool) -> None:
    """Raise ValueError where there is nothing that could be computed again."""
    if recompute and all(stage.policy is None for stage in plan.recipe.stages):
        raise ValueError(f"recompute cannot act: no stage of {plan.recipe.name} is quantized: leave it out")


def _opened(plan: Plan, precision: Precision, out: Path, resume: bool, say: Say) -> RunRecord:
    """A new record, or the one in ``out`` to go on with. A run that died before its first save is no run yet."""
    here = Environment.here()
    plugins = plugins_behind([plan.recipe.model, plan.recipe.data, plain.to_plain(plan.recipe.stages)])
    facts: dict[str, Any] = {"recipe": plan.recipe, "seed": plan.seed, "precision": precision, "plugins": plugins}
    fresh = RunRecord(**facts, device=plan.device, environment=here)
    if resume and not (out / RECORD).is_file():
        say(f"{out} holds no run to resume: this is a new one")
    if not (out / RECORD).is_file():
        return write_record(out, fresh)
    try:
        found = read_plain(out)
    except ValueError as error:
        raise ValueError(f"{error}: start the run anew with another --out") from error
    if not found.get("stages") and not (out / "checkpoint").is_dir():
        return write_record(out, fresh)
    if not resume:
        raise ValueError(
            f"{out} holds a run already: --resume goes on with it, --overwrite replaces it, another --out "
            "starts a new one"
        )
    there, here = (
        {
            "recipe": decisive(run["recipe"]),
            "seed": run.get("seed"),
            "precision": run.get("precision", "float32"),
        }
        for run in (found, plain.to_plain(fresh))
    )
    if there != here:
        raise ValueError(f"{out} holds another run ({first_difference(there, here)}): give another --out")
    record = read_run(out, trust=True).record  # it names what this recipe names, and that is imported already
    _check_same_checkpoint(record, plan.checkpoint)
    say(f"{out}: goes on; finished stages: {', '.join(record.stages) or 'none'}")
    added = tuple(plugin for plugin in plugins if plugin not in record.plugins)
    return write_record(out, replace(record, plugins=record.plugins + added)) if added else record


def _check_same_checkpoint(record: RunRecord, checkpoint: Checkpoint | None) -> None:
    """Raise ValueError where a run that was begun goes on with another checkpoint than it started from."""
    begun = record.checkpoint
    if begun is None and checkpoint is not None:
        raise ValueError(
            f"{checkpoint.path}: this run started without a checkpoint: leave it out, or give another --out"
        )
    if begun is None or (checkpoint is not None and checkpoint.digest() == begun.sha256):
        return
    given = checkpoint.path if checkpoint is not None else "no --checkpoint"
    raise ValueError(f"{given}: this run started from {begun.file}: give that, or another --out")


def _measured(plan: Plan, checkpoint: Checkpoint, say: Say) -> GivenCheckpoint:
    """Score the float model of the checkpoint that a run is given, as its stages build it, and say so."""
    torch.manual_seed(plan.seed)
    model = build_model(plan.recipe, plan.data)
    checkpoint.load_(model)
    batches = plan.data.test_batches(TEST_BATCH[plan.data.task], device=plan.device)
    test = evaluate(model.to(plan.device), batches, description="given checkpoint")
    name, score = test.score
    say(f"{checkpoint.path.name}: float {LABELS[name]} {score:.2f} % of {test.num_samples:,} test images")
    return GivenCheckpoint(file=checkpoint.path.name, sha256=checkpoint.digest(), test=test)


def _say_stage(stage: Stage, entry: StageRecord, classes: int, say: Say) -> None:
    metric = LABELS[entry.metric]
    for change in entry.batchnorm:
        say(f"{stage.name}: {change}")
    guess = ", no better than guessing" if entry.at_chance(classes) and stage.epochs else ""
    trained = f" after {entry.seconds:.1f} s of training" if stage.epochs else ", not trained"
    say(f"{stage.name}: {metric} {entry.score:.2f} %{trained}{guess}")


def _say_kept(record: RunRecord, best: str, last: str, say: Say) -> None:
    ended, kept = (record.stages[name].held_out or 0.0 for name in (last, best))
    say(
        f"{last} ends at {ended:.2f} % of the held-out images, {best} at {kept:.2f} %: the net of {best} is kept as "
        f"model.safetensors; the other is stages/{last}.safetensors"
    )


def _say_left_out(plan: Plan, say: Say) -> None:
    say(f"{len(plan.data.left_out)} files of {plan.data.name} could not be read and were left out:")
    for path, reason in plan.data.left_out.items():
        say(f"  {path}: {reason}")
