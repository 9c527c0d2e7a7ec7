"""Evaluation: top-1, top-5 and loss, never without the proof that the model is what it says."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from .. import plain
from ..bounded import length_of
from ..data.pairs import pair_of
from ..device import device_of, float32_products
from ..inputs import check_one_input
from ..modes import modes_kept
from ..nonempty import nonempty
from ..outputs import logits_of
from ..progress import track
from ..quant.convention import Convention, convention
from ..quant.passes import read_is_free, wide
from ..quant.proof import Proof, prove
from ..text import as_text
from .scores import Scores

PROOF_SAMPLES = 32
SETTLE_EVERY = 64
"""Batches between looks at a device, each of which waits for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What a model scores, under which convention, with the proof. Prints as a table.

    Attributes:
        top1, top5: percent of samples (pixels, in segmentation) whose label is the first, or among the first five.
        loss: mean cross-entropy.
        miou: mean intersection over union in percent, void ignored; None for classification.
        num_samples: how many images were seen.
        convention: what is quantized how.
        proof: distinct levels of every quantized tensor.
    """

    top1: float
    top5: float
    loss: float
    miou: float | None
    num_samples: int
    convention: Convention
    proof: Proof

    @property
    def score(self) -> tuple[str, float]:
        """What the model is judged by: ``("miou", ...)`` in segmentation, else ``("top1", ...)``."""
        return ("top1", self.top1) if self.miou is None else ("miou", self.miou)

    def levels(self, weights: Container[str] | None = None) -> str:
        """Distinct levels in use of those that grids allow: ``3/4, 201/255``; ``float`` of none.

        Args:
            weights: names of quantizers, as the proof has them; None for those that say ``weight``.
        """
        usage = self.proof.usage
        named = {name for name in usage if "weight" in name.rpartition(".")[2]} if weights is None else weights
        own = [count for name, count in usage.items() if name in named]
        return ", ".join(sorted({f"{count.used}/{count.allowed}" for count in own})) or "float"

    def table(self, title: str = "", weights: Container[str] | None = None) -> Table:
        """Scores, images, levels of weights, and the convention below."""
        scores = {"top-1 %": self.top1, "top-5 %": self.top5}
        if self.miou is not None:
            scores = {"mIoU %": self.miou, "pixels right %": self.top1}
        columns = *scores, "loss", "images", "levels used / allowed (weights)"
        table = Table(*columns, title=title or None, caption=str(self.convention), caption_justify="left")
        shown = [f"{score:.2f}" for score in scores.values()]
        table.add_row(*shown, f"{self.loss:.4f}", f"{self.num_samples:,}", self.levels(weights))
        return table

    def __str__(self) -> str:
        return as_text(self.table())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ``miou`` only where there is one."""
        return plain.to_plain(self)


@torch.no_grad()
@float32_products()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_batches: int | None = None,
    description: str = "evaluating",
) -> Metrics:
    """Score a classifier or a segmentation net in eval mode; its training mode is restored.

    The first batch also proves the quantization (``flatbit.quant.proof``): a layer that is not on its
    stated grid is an error, not a number. On a device nothing waits between batches: what is wrong with images or
    labels is said up to ``SETTLE_EVERY`` batches later.

    Args:
        model: float or quantized, logits (N, classes), or (N, classes, H, W) for labels (N, H, W); an output that holds
            more is taken as ``flatbit.outputs`` says.
        batches: iterable of ``(x, y)``; labels of any whole-number type, (N, 1) for (N,) too.
        num_batches: how many to score; None for all of an iterable that ends (``flatbit.bounded``).
        description: of the progress bar.

    Raises:
        ValueError: no batches, or no end of them; what is no pair ``(x, y)``; images or logits that are not finite;
            labels that are no whole numbers, do not fit the logits, or that the model has no output for.
        QuantizationError: the model is not quantized as it states.
    """
    check_one_input(model, "evaluate")
    device, stream = device_of(model), nonempty(batches, "evaluate", num_batches)
    proof, scores, images = Proof(), Scores(type(model).__name__), _Images()
    with modes_kept(model):
        model.eval()
        for index, batch in enumerate(track(stream, description, total=num_batches or length_of(batches))):
            x, y = (tensor.to(device) for tensor in pair_of(batch, f"evaluate: batch {index}"))
            images.add(x)
            if read_is_free(x) or not scores.num_samples:
                images.settle()
            if not scores.num_samples:
                proof = prove(model, x[:PROOF_SAMPLES])
            scores.add(wide(logits_of(model(x), type(model).__name__)), y)
            if index % SETTLE_EVERY == SETTLE_EVERY - 1:
                images.settle()
                scores.settle()
    images.settle()
    scores.settle()
    if not scores.count:
        raise ValueError(f"all labels of {scores.num_samples} images are void: there is nothing to score")
    if not math.isfinite(scores.loss):
        raise ValueError(f"the logits are NaN or infinite: a weight or a step of {type(model).__name__} is not finite")
    return Metrics(
        top1=100 * scores.hits1 / scores.count,
        top5=100 * scores.hits5 / scores.count,
        loss=scores.loss / scores.count,
        miou=scores.miou,
        num_samples=scores.num_samples,
        convention=convention(model),
        proof=proof,
    )


class _Images:
    """Whether the images of each batch are finite, noted on their device."""

    def __init__(self) -> None:
        self.settled = 0
        self.pending: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        self.pending.append(x.isfinite().all())

    def settle(self) -> None:
        """Look at what was added. Raises ValueError, with the first batch whose images are not finite."""
        finite: list[bool] = torch.stack(self.pending).tolist() if self.pending else []
        if not all(finite):
            index = self.settled + finite.index(False)
            raise ValueError(f"batch {index} has NaN or infinite values in its images: is the data sound?")
        self.settled, self.pending = self.settled + len(finite), []
