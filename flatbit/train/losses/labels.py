"""Cross-entropy with the labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.batches import VOID
from ...data.labels import class_indices
from ...outputs import logits_of
from ...quant.rounding import wide
from . import LOSSES, LossTerm, check_weight

NONE = torch.iinfo(torch.int64).min
"""The label that is left out of a classifier's batch: none that there is."""


def cross_entropy(logits: Any, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, classes, ...) and labels (N, ...) of any whole-number type; float32 at least.

    An output that holds more than logits is taken as ``flatbit.outputs`` says. Labels of pixels, (N, H, W), leave out
    those that are ``VOID``; a batch of nothing else has loss 0.

    Raises:
        ValueError: labels that are no whole numbers, or of another shape (``class_indices``).
    """
    logits = wide(logits_of(logits, "cross_entropy: the model"))
    y = class_indices(y, logits, "cross_entropy: the model")
    if y.ndim == 1:
        return F.cross_entropy(logits, y, ignore_index=NONE)
    total = F.cross_entropy(logits, y, ignore_index=VOID, reduction="sum")
    return total / (y != VOID).sum().clamp_min(1)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropy(LossTerm):
    """``cross_entropy(logits, y)``: what a stage trains with unless it says otherwise.

    Raises ValueError for a weight that is not positive.
    """

    weight: float = 1.0
    name: str = field(default="cross_entropy", metadata={"setting": False})

    def __post_init__(self) -> None:
        check_weight(self)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        return cross_entropy(logits, y)


LOSSES.add("cross_entropy", CrossEntropy)
