"""Objectives: the loss of a model on a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import VOID

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the model's logits (N, classes, ...) and labels (N, ...): (loss, logits).

    Labels of pixels, (N, H, W), leave out those that are ``VOID``; a batch of nothing else has loss 0.
    """
    logits = model(x)
    if y.ndim == 1:
        return F.cross_entropy(logits, y), logits
    total = F.cross_entropy(logits, y, ignore_index=VOID, reduction="sum")
    return total / (y != VOID).sum().clamp_min(1), logits
