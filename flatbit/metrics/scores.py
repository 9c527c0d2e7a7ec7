"""Scores: what evaluation sums over batches, for one label per image or one per pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import VOID
from ..data.labels import class_indices
from ..quant.rounding import wide

LABELS = {"top1": "top-1", "miou": "mIoU"}
"""What people call a metric; all are in percent."""


class Scores:
    """Running sums of top-1, top-5, loss and, for segmentation, the confusion matrix.

    Labels of shape (N, H, W) are segmentation: each pixel counts but those of ``VOID``.

    Args:
        model: the model's name, for errors.

    Attributes:
        num_samples: images seen.
        count: labels seen.
        confusion: (classes, classes), truth in rows; None for classification.
    """

    def __init__(self, model: str = "the model") -> None:
        self.model = model
        self.num_samples = 0
        self.count = 0
        self.loss = 0.0
        self.hits1 = 0
        self.hits5 = 0
        self.confusion: Tensor | None = None

    def add(self, logits: Tensor, y: Tensor) -> None:
        """Add a batch: logits (N, classes, ...), labels (N, ...) of any whole-number type.

        Raises ValueError where they do not fit (``class_indices``), or a label has no output.
        """
        logits, y = wide(logits), class_indices(y, logits, self.model)
        self.num_samples += len(y)
        classes = logits.shape[1]
        pixels = y.ndim > 1
        if pixels:
            valid = y != VOID
            logits, y = logits.movedim(1, -1)[valid], y[valid]
        if y.numel() and int(y.min()) < 0:
            raise ValueError(f"a label is {int(y.min())}: expected 0 or more (pixels to leave out are {VOID})")
        if y.numel() and int(y.max()) >= classes:
            raise ValueError(
                f"a label is {int(y.max())}, but {self.model} has {classes} outputs: it was built for another data set "
                "(num_classes=)"
            )
        if pixels:
            self._confuse(logits.argmax(1), y, classes)
        ranked = logits.topk(min(5, classes), dim=1).indices == y[:, None]
        self.hits1 += int(ranked[:, 0].sum())
        self.hits5 += int(ranked.sum())
        self.loss += float(F.cross_entropy(logits, y, reduction="none").sum(dtype=torch.float64))
        self.count += len(y)

    def _confuse(self, said: Tensor, y: Tensor, classes: int) -> None:
        counts = torch.bincount(classes * y + said, minlength=classes**2).reshape(classes, classes).cpu()
        self.confusion = counts if self.confusion is None else self.confusion + counts

    @property
    def miou(self) -> float | None:
        """Mean intersection over union in percent, over the classes that occur in truth or answer."""
        if self.confusion is None:
            return None
        hits = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return 100 * float((hits[union > 0] / union[union > 0]).mean())
