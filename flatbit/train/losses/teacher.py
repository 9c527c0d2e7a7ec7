"""Knowledge distillation: a teacher's softened answers (Hinton, Vinyals, Dean: arXiv 1503.02531, section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import plain
from ...data.batches import VOID
from ...data.labels import class_indices
from ...outputs import logits_of
from ...quant.rounding import wide
from ...reference import START, From
from . import LOSSES, LossTerm
from .labels import CrossEntropy

NAME = "distillation"


def distill(
    logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, *, labels: Tensor | None = None
) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))``, mean over samples or pixels (Hinton et al., 2015).

    Args:
        logits: z_s of the student, (N, classes, ...).
        teacher_logits: z_t, of the same shape; no gradient reaches them.
        temperature: T.
        labels: of pixels, (N, H, W): those that are ``VOID`` are left out. None takes all. One label per image is
            not looked at.

    Raises:
        ValueError: logits of different shapes; labels of pixels that are no whole numbers or of another shape.
    """
    if logits.shape != teacher_logits.shape:
        raise ValueError(
            f"{NAME}: the student's logits have shape {tuple(logits.shape)}, the teacher's "
            f"{tuple(teacher_logits.shape)}: expected equal ones: take a teacher of the same classes and output size"
        )
    log_p_t = F.log_softmax(wide(teacher_logits.detach()) / temperature, dim=1)
    log_p_s = F.log_softmax(wide(logits) / temperature, dim=1)
    divergence = (log_p_t.exp() * (log_p_t - log_p_s)).sum(1)  # F.kl_div, which vmap has no rule for
    if labels is None or logits.ndim == 2:
        return temperature**2 * divergence.mean()
    counts = class_indices(labels, logits, f"{NAME}: the student") != VOID
    return temperature**2 * divergence.where(counts, 0.0).sum() / counts.sum().clamp_min(1)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation(LossTerm):
    """``distill(logits, teacher(x), T)``; no label is looked at, except for the pixels that are ``VOID``.

    Attributes:
        teacher: which network: ``start`` (as it is built, or the checkpoint that the run was given), an
            earlier stage, or the file of a finished run.
        temperature: T, of both softmaxes.
        weight: lambda; ``taught`` gives the labels the rest.
        network: the teacher itself; it is put into eval mode and run without gradients. The engine sets it;
            in a loop of your own, give it here.

    Raises:
        ValueError: a temperature or weight out of range; when called, no network, or outputs of another shape.
    """

    mimics: ClassVar[bool] = True
    teacher: From = START
    temperature: float = 4.0
    weight: float = 0.9
    name: str = field(default=NAME, metadata={"setting": False})
    network: nn.Module | None = field(default=None, compare=False, repr=False, metadata=plain.skipped())

    def __post_init__(self) -> None:
        numbers = all(isinstance(value, int | float) for value in (self.temperature, self.weight))
        if not numbers or not 0 < self.temperature < math.inf or not 0 < self.weight <= 1:
            raise ValueError(f"{self}: expected a positive temperature and a weight above 0, up to 1")
        if not isinstance(self.teacher, From):
            raise ValueError(f"teacher={self.teacher!r}: expected a From, such as From.stage('float')")
        if self.network is not None:
            self.network.eval()

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        if self.network is None:
            raise ValueError(f"{self.name}: the teacher {self.teacher} is not loaded: give the term its network=")
        with torch.no_grad():
            answers = logits_of(self.network(x), "the teacher")
        return distill(logits, answers, self.temperature, labels=y)

    def teachers(self) -> tuple[From, ...]:
        """The one teacher."""
        return (self.teacher,)

    def bound(self, load: Callable[[From], nn.Module]) -> Distillation:
        """With its network."""
        return replace(self, network=load(self.teacher))


def taught(distillation: Distillation | None) -> tuple[LossTerm, ...]:
    """The terms of ``(1 - lambda) cross_entropy + lambda T^2 KL``; labels alone for None, none where lambda is 1."""
    if distillation is None:
        return (CrossEntropy(),)
    if distillation.weight == 1:
        return (distillation,)
    return CrossEntropy(weight=1 - distillation.weight), distillation


LOSSES.add("distillation", Distillation)
