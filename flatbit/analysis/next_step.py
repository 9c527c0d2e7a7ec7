"""A finished stage beside the float net, and the next thing to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.recipe import Stage
from ..engine.record import RunRecord, StageRecord
from ..metrics.health import Finding
from ..metrics.scores import LABELS
from ..train.losses.teacher import Distillation
from .calibrated import better_start

CLOSE = 0.5
"""So many points below the float net are as good as none: seeds differ by as much."""
FALLING = 0.05
"""A training loss that fell by this share over the last quarter of the epochs falls on."""
GUESSING = 1.5
"""A top-1 of at most so many times that of guessing is none."""
MORE_BITS = "give the layers that lose most more bits: flatbit sensitivity RUN and flatbit search RUN name them"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A quantized stage beside the float net of its run.

    Attributes:
        stage: its name.
        metric: ``top1`` or ``miou``.
        score, reference: of the stage and of the float net, in percent; None where the run has no float net.
        next: what to try, in words.
    """

    stage: str
    metric: str
    score: float
    reference: float | None
    next: str

    @property
    def below(self) -> float | None:
        """Points below the float net."""
        return None if self.reference is None else self.reference - self.score

    def __str__(self) -> str:
        score = f"{self.stage}: {LABELS[self.metric]} {self.score:.2f} %"
        if self.below is None:
            return f"{score}; the run has no float net to compare with. Next: {self.next}"
        way = "below" if self.below >= 0 else "above"
        return f"{score}, {abs(self.below):.2f} points {way} the float net's {self.reference:.2f} %. Next: {self.next}"


def compare(record: RunRecord, name: str, findings: Sequence[Finding] = (), *, num_classes: int) -> Compared | None:
    """A finished stage beside the run's float net; None where the stage is one itself.

    The float net is that of the last earlier stage without a policy, else the checkpoint that the run was given.

    Args:
        record: of the run.
        name: of the stage.
        findings: of the doctor's; what it found is mended first, where the stage is worse than float.
        num_classes: of the data.
    """
    stage, entry = record.recipe.stage(name), record.stages[name]
    if stage.policy is None:
        return None
    reference = _float_score(record, name)
    below = None if reference is None else reference - entry.score
    if reference is not None and entry.metric == "top1" and reference <= GUESSING * 100 / num_classes:
        step = "train the float net first: it is no better than guessing (flatbit quantize takes it by --checkpoint)"
    elif findings and not (below is not None and below <= CLOSE):
        step = f"what was found is mended first: {findings[0].mend}"
    else:
        step = what_to_try(record, stage, entry, below)
    return Compared(stage=name, metric=entry.metric, score=entry.score, reference=reference, next=step)


def what_to_try(record: RunRecord, stage: Stage, entry: StageRecord, below: float | None) -> str:
    """The next thing to try for a quantized stage that is sound, ``below`` points below its float net."""
    assert stage.policy is not None
    width = stage.policy.base.weights
    if below is not None and below <= CLOSE:
        return "as good as float: try fewer bits" if width > 1 else "as good as float at the fewest bits there are"
    other = _other_policy(stage)
    if not stage.epochs:
        return f"it was only calibrated: train it on{other and f', or {other}'}"
    if _still_falling(entry):
        return "train longer: the loss was still falling at the end"
    if width == 1 and not _starts_from_two_bits(record, stage):
        return "start from the net of 2 bits: train that first, and this stage from it"
    if not any(isinstance(term, Distillation) for term in stage.losses):
        return "let it learn from the float net's answers (flatbit quantize --distill mixed)"
    return other or MORE_BITS


def _float_score(record: RunRecord, name: str) -> float | None:
    """The score of the float net that a stage is held against."""
    earlier = [stage.name for stage in record.finished()]
    earlier = earlier[: earlier.index(name)]
    floats = [each for each in earlier if record.recipe.stage(each).policy is None]
    if floats:
        return record.stages[floats[-1]].score
    return None if record.checkpoint is None else record.checkpoint.test.score[1]


def _other_policy(stage: Stage) -> str:
    """Another policy where the table has one with a better start; nothing where it has not."""
    assert stage.policy is not None
    if (pair := better_start(stage.policy)) is None:
        return ""
    own, best = pair
    return (
        f"take --policy {best.policy}: calibrated to W{own.weights}/A{own.activations}, {own.in_words} and "
        f"{best.in_words} before training ({own.net}, n={own.n})"
    )


def _still_falling(entry: StageRecord) -> bool:
    """Whether the training loss fell over the last quarter of the epochs, of which there are four or more."""
    losses = [epoch.train_loss for epoch in entry.epochs]
    quarter = len(losses) // 4
    return quarter > 0 and losses[-1] < (1 - FALLING) * losses[-1 - quarter]


def _starts_from_two_bits(record: RunRecord, stage: Stage) -> bool:
    if stage.start.kind != "stage":
        return False
    policy = record.recipe.stage(stage.start.name).policy
    return policy is not None and policy.base.weights == 2
