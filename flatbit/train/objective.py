"""Objectives: the loss of a model on a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the model's logits (N, classes, ...) and labels (N, ...): (loss, logits)."""
    logits = model(x)
    return F.cross_entropy(logits, y), logits
