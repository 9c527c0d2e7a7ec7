"""Objectives: the loss of a model on a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import VOID

IGNORE_NONE = -100  # torch's default: no label is that
Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the model's logits (N, classes, ...) and labels (N, ...): (loss, logits).

    Labels of pixels, (N, H, W), leave out those that are ``VOID``.
    """
    logits = model(x)
    return F.cross_entropy(logits, y, ignore_index=VOID if y.ndim > 1 else IGNORE_NONE), logits
