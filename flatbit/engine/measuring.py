"""Measuring a trained stage: what its net scores, with which batch-norm statistics, and which stage's net is kept."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics.evaluation import Metrics, evaluate
from ..quant.cost import cost
from ..train.batchnorm import reestimate_batchnorm_
from .recipe import Stage
from .record import BatchNormChange, EpochRecord, RunRecord, StageRecord, Totals
from .stage import Work, first_images


def measure(work: Work, last: Metrics | None, test: Metrics | None = None) -> StageRecord:
    """The record of a trained net: scored, and again where the stage re-estimates its batch-norm statistics.

    Args:
        work: trained.
        last: what its last epoch scored; None to score it here.
        test: what the net scores on the test set, where that is known before; None to score it here.
    """
    stage, history = work.stage, work.position.history
    known = test if work.held_out is None else None
    last = last or known or evaluate(work.model, work.watched, description=f"{stage.name}, last")
    metric = last.score[0]
    changes = _frozen(stage, history, last.score[0])
    if stage.reestimate_batches:
        last, found = _reestimated(work, last)
        changes += found
    if work.held_out is not None:
        test = test or evaluate(work.model, work.test, description=f"{stage.name}, test set")
    scores = [score for epoch in history if (score := epoch.score(metric)) is not None]
    return StageRecord(
        metric=metric,
        test=last if work.held_out is None or test is None else test,
        held_out=None if work.held_out is None else last.score[1],
        best_test=max(scores, default=None) if work.held_out is None else None,
        cost=Totals.of(cost(work.model, tuple(first_images(work.test).shape[1:]))),
        seconds=sum(epoch.seconds for epoch in history),
        way=work.way,
        epochs=history,
        batchnorm=tuple(changes),
    )


def _reestimated(work: Work, before: Metrics) -> tuple[Metrics, list[BatchNormChange]]:
    """The score with re-estimated batch-norm statistics; taken back where held-out samples score less with them."""
    old = [(buffer, buffer.clone()) for buffer in work.model.buffers()]
    used = reestimate_batchnorm_(work.model, work.batches, work.stage.reestimate_batches)
    if not used:
        return before, []  # it has no batch norms
    after = evaluate(work.model, work.watched, description=f"{work.stage.name}, statistics re-estimated")
    undone = work.held_out is not None and after.score[1] < before.score[1]
    if undone:
        for buffer, value in old:
            buffer.copy_(value)
    change = BatchNormChange(
        step=f"re-estimated from {used} batches", before=before.score[1], after=after.score[1],
        held_out=work.held_out is not None, undone=undone,
    )  # fmt: skip
    return before if undone else after, [change]


def _frozen(stage: Stage, history: Sequence[EpochRecord], metric: str) -> list[BatchNormChange]:
    """The score before and after the first epoch with frozen batch norms."""
    epoch = stage.freeze_batchnorm
    if epoch is None or not 0 < epoch < len(history):
        return []
    before, after = (found.score(metric) for found in history[epoch - 1 : epoch + 1])
    assert before is not None
    assert after is not None
    return [BatchNormChange(step=f"frozen, epoch {epoch + 1} trained so", before=before, after=after)]


def best_stage(record: RunRecord) -> str:
    """The stage whose net a finished run leaves: the last, or one of its policy that scores more held out."""
    *_, last = record.recipe.stages
    rivals = [stage.name for stage in record.recipe.stages if stage.policy == last.policy]
    return max(reversed(rivals), key=lambda name: record.stages[name].held_out or 0.0)
