"""Evaluation: top-1, top-5 and loss, never without the proof that the model is what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..progress import track
from ..quant.convention import Convention, convention
from ..quant.proof import Proof, prove

PROOF_SAMPLES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What a model scores, under which convention, with the proof.

    Attributes:
        top1, top5: percent of samples whose label is the first, or among the first five.
        loss: mean cross-entropy.
        num_samples: how many were seen.
        convention: what is quantized how.
        proof: distinct levels of every quantized tensor.
    """

    top1: float
    top5: float
    loss: float
    num_samples: int
    convention: Convention
    proof: Proof

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        numbers = {"top1": self.top1, "top5": self.top5, "loss": self.loss, "num_samples": self.num_samples}
        return numbers | {"convention": self.convention.as_dict(), "levels": self.proof.as_dict()}


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, description: str = "evaluating") -> Metrics:
    """Score a classifier in eval mode; its training mode is restored.

    The first batch also proves the quantization (``flatbit.quant.proof``): a layer that is not on its
    stated grid is an error, not a number.

    Args:
        model: float or quantized, logits (N, classes).
        batches: iterable of ``(x, y)``.
        description: of the progress bar.

    Raises:
        ValueError: no batches, labels the model has no output for, or logits that are not finite.
        QuantizationError: the model is not quantized as it states.
    """
    modes = {module: module.training for module in model.modules()}
    device = next(chain(model.parameters(), model.buffers()), torch.empty(0)).device
    model.eval()
    proof, hits1, hits5, loss, count = Proof(), 0, 0, 0.0, 0
    try:
        for x, y in track(batches, description, total=_length(batches)):
            x, y = x.to(device), y.to(device)
            if not count:
                proof = prove(model, x[:PROOF_SAMPLES])
            logits = model(x).float()
            if len(y) and int(y.max()) >= logits.shape[1]:
                raise ValueError(
                    f"a label is {int(y.max())}, but {type(model).__name__} has {logits.shape[1]} outputs: "
                    "it was built for another data set (num_classes=)"
                )
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == y[:, None]
            hits1 += int(ranked[:, 0].sum())
            hits5 += int(ranked.sum())
            loss += float(F.cross_entropy(logits, y, reduction="sum"))
            count += len(y)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise ValueError("evaluate got no batches: the iterable is empty, or was used up before")
    if not math.isfinite(loss):
        raise ValueError(f"the logits are NaN or infinite: a weight or a step of {type(model).__name__} is not finite")
    return Metrics(
        top1=100 * hits1 / count,
        top5=100 * hits5 / count,
        loss=loss / count,
        num_samples=count,
        convention=convention(model),
        proof=proof,
    )


def _length(batches: Iterable[Any]) -> int | None:
    return len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]
