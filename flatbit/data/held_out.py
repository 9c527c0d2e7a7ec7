"""Held-out training samples: a choice that is made on them leaves the test set unseen."""

from __future__ import annotations

import torch

from .batches import Data, generator


def held_out(data: Data, count: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Two parts of the training samples, drawn at random: the rest, and so many that are held out.

    Args:
        data: both parts have its test split.
        count: at least 1, and fewer than there are.
        seed: of the draw.

    Raises:
        ValueError: no such count; data whose samples cannot be chosen.
    """
    total = data.train_batches(1, seed=0).num_samples
    if not 0 < count < total:
        raise ValueError(f"held_out: count={count}: expected 1 to {total - 1} of the {total:,} training samples")
    order = torch.randperm(total, generator=generator(seed, count))
    return data.with_train(order[count:]), data.with_train(order[:count])
