"""Objectives: the loss of a model on a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import VOID

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distillation:
    """Knowledge distillation (Hinton et al., 2015): learn a teacher's softened answers.

    Attributes:
        teacher: ``start``, the float net of the weights that the stage starts from; the name of an
            earlier stage; or the path of a run's folder or of a model file of ours.
        temperature: T, of both softmaxes.
        weight: lambda, of the teacher's term; 1 for no labels at all.
    """

    teacher: str = "start"
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.weight <= 1:
            raise ValueError(f"{self}: expected a positive temperature and a weight above 0, up to 1")


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the model's logits (N, classes, ...) and labels (N, ...): (loss, logits).

    Labels of pixels, (N, H, W), leave out those that are ``VOID``; a batch of nothing else has loss 0.
    """
    logits = model(x)
    if y.ndim == 1:
        return F.cross_entropy(logits, y), logits
    total = F.cross_entropy(logits, y, ignore_index=VOID, reduction="sum")
    return total / (y != VOID).sum().clamp_min(1), logits
