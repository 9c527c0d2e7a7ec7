"""Scores: what evaluation sums over batches, for one label per image or one per pixel.

What a batch scores is computed where its logits are. On a device it is brought over when ``settle`` asks, so that
nothing waits between batches; on the CPU at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.batches import VOID
from ..data.labels import class_indices
from ..quant.passes import read_is_free, wide

LABELS = {"top1": "top-1", "miou": "mIoU"}
"""What people call a metric; all are in percent."""


class Tally(NamedTuple):
    """What one batch scores, on its device.

    Attributes:
        whole: int64 (5,): labels that are the first answer, that are among the first five, that count; the lowest
            label and the highest.
        loss: float64 (): summed cross-entropy.
        cells: int64 (classes ** 2 + 1,): the confusion matrix, row by row, and a cell for void; None for
            classification.
        classes: how many outputs the model has.
    """

    whole: Tensor
    loss: Tensor
    cells: Tensor | None
    classes: int


def tally(logits: Tensor, y: Tensor) -> Tally:
    """What a batch scores; never waits for a device.

    Args:
        logits: (N, classes, ...), float32 or float64, with one class and one label at least.
        y: int64 (N, ...), as ``class_indices`` gives it. A label without an output counts as the nearest class: it is
            for the caller to judge the lowest and the highest one.
    """
    classes, pixels = logits.shape[1], y.ndim > 1
    rows, y = (logits.movedim(1, -1).reshape(-1, classes), y.flatten()) if pixels else (logits, y)
    counts = y != VOID if pixels else torch.ones_like(y, dtype=torch.bool)
    y = y.where(counts, 0)
    known = y.clamp(0, classes - 1)  # an index out of range is undefined on a device
    right = (rows.topk(min(5, classes), dim=1).indices == known[:, None]) & counts[:, None]
    losses = F.cross_entropy(rows, known, reduction="none").where(counts, 0.0)
    return Tally(
        whole=torch.stack([right[:, 0].sum(), right.sum(), counts.sum(), y.min(), y.max()]),
        loss=losses.sum(dtype=torch.float64),
        cells=_confused(rows.argmax(1), known, counts, classes) if pixels else None,
        classes=classes,
    )


def _confused(said: Tensor, truth: Tensor, counts: Tensor, classes: int) -> Tensor:
    cells = (classes * truth + said).where(counts, classes**2)
    return cells.new_zeros(classes**2 + 1).scatter_add_(0, cells, torch.ones_like(cells))


class Scores:
    """Running sums of top-1, top-5, loss and, for segmentation, the confusion matrix.

    Labels of shape (N, H, W) are segmentation: each pixel counts but those of ``VOID``.

    Args:
        model: the model's name, for errors.

    Attributes:
        num_samples: images seen.
        count: labels seen; this and what follows up to the last ``settle``.
        loss: summed cross-entropy.
        hits1, hits5: labels that were the first answer, or among the first five.
        confusion: int64 (classes, classes) on the CPU, truth in rows; None for classification.
    """

    def __init__(self, model: str = "the model") -> None:
        self.model = model
        self.num_samples = 0
        self.count = 0
        self.loss = 0.0
        self.hits1 = 0
        self.hits5 = 0
        self.confusion: Tensor | None = None
        self._pending: list[Tally] = []

    def add(self, logits: Tensor, y: Tensor) -> None:
        """Add a batch: logits (N, classes, ...), labels (N, ...) of any whole-number type; on the CPU settle it.

        Raises ValueError where they do not fit (``class_indices``), or a label has no output (on the CPU).
        """
        logits, y = wide(logits), class_indices(y, logits, self.model)
        self.num_samples += len(y)
        if not y.numel():
            return
        if not logits.shape[1]:
            raise ValueError(f"{self.model} has no outputs: logits of shape {tuple(logits.shape)}")
        self._pending.append(tally(logits, y))
        if read_is_free(logits):
            self.settle()

    def settle(self) -> None:
        """Bring over what was added: the one look at the device. Raises ValueError where a label has no output."""
        if not self._pending:
            return
        tallies, self._pending = self._pending, []
        wholes = torch.stack([tally.whole for tally in tallies]).tolist()
        losses = torch.stack([tally.loss for tally in tallies]).tolist()
        for (hits1, hits5, count, lowest, highest), loss, batch in zip(wholes, losses, tallies, strict=True):
            self._judge(lowest, highest, batch.classes)
            self.hits1, self.hits5 = self.hits1 + hits1, self.hits5 + hits5
            self.count, self.loss = self.count + count, self.loss + loss
        if confused := [tally.cells for tally in tallies if tally.cells is not None]:
            cells = torch.stack(confused).sum(0)[:-1].reshape(tallies[0].classes, -1).cpu()
            self.confusion = cells if self.confusion is None else self.confusion + cells

    def _judge(self, lowest: int, highest: int, outputs: int) -> None:
        if lowest < 0:
            raise ValueError(f"a label is {lowest}: expected 0 or more (pixels to leave out are {VOID})")
        if highest >= outputs:
            raise ValueError(
                f"a label is {highest}, but {self.model} has {outputs} outputs: it was built for another data set "
                "(num_classes=)"
            )

    @property
    def miou(self) -> float | None:
        """Mean intersection over union in percent, over the classes that occur in truth or answer."""
        if self.confusion is None:
            return None
        hits = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return 100 * float((hits[union > 0] / union[union > 0]).mean())
