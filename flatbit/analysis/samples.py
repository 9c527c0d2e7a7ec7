"""Samples: the fixed images on which an analysis measures a network over and over, and what it scores there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import nn

from ..data.batches import Batch, Data
from ..device import float32_products
from ..metrics.scores import Scores
from ..modes import modes_kept
from ..outputs import logits_of
from ..quant.passes import wide

Split = Literal["train", "test"]
BATCH = 200


class Score(NamedTuple):
    """What a network scores on some samples.

    Attributes:
        loss: mean cross-entropy.
        accuracy: percent of the labels that it says, of pixels in segmentation.
    """

    loss: float
    accuracy: float


def sample(data: Data, split: Split, count: int, device: torch.device | str = "cpu") -> list[Batch]:
    """So many samples of a split, kept in memory on a device: not augmented, and the same whenever they are asked.

    They are the first in the order of seed 0, in whole batches of 200; all test samples, where there are no more.

    Args:
        data: where they come from.
        split: of it.
        count: how many; all where there are fewer.
        device: where they stay.

    Raises:
        ValueError: no samples, or none asked for; data whose test samples cannot be shuffled, so that the first of
            them might be of a few classes only.
    """
    if count < 1:
        raise ValueError(f"num_images={count}: expected 1 or more")
    if split == "test" and data.test_batches(BATCH).num_samples <= count:
        return list(data.test_batches(BATCH, device=device))
    source = data if split == "train" else data.swapped()
    there = source.train_batches(1, seed=0, augment=False).num_samples
    size = max(1, min(BATCH, count, there))
    found: list[Batch] = []
    for x, y in source.train_batches(size, seed=0, device=device, augment=False):
        found.append((x[:count], y[:count]))
        count -= len(found[-1][1])
        if count <= 0:
            break
    if not found:
        raise ValueError(f"data set {data.name!r} has no {split} samples: expected 1 or more")
    return found


@torch.no_grad()
@float32_products()
def score(model: nn.Module, batches: Iterable[Batch]) -> Score:
    """Loss and accuracy in eval mode; modes are restored. Both may be NaN or infinite.

    Raises ValueError where logits and labels do not fit each other.
    """
    scores = Scores(type(model).__name__)
    with modes_kept(model):
        model.eval()
        for x, y in batches:
            scores.add(wide(logits_of(model(x), type(model).__name__)), y)
    scores.settle()
    if not scores.count:
        raise ValueError("all labels are void: expected samples with labels")
    return Score(loss=scores.loss / scores.count, accuracy=100 * scores.hits1 / scores.count)
