"""Parts of a data set's samples: those held out for choices, which leave the test set unseen, and fewer tests."""

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


def fewer_tests(data: Data, count: int, *, seed: int = 0) -> Data:
    """The same data with so many of its test samples, drawn at random, in their order.

    Raises:
        ValueError: no such count, or all of them; data whose samples cannot be chosen.
    """
    total = data.test_batches(1).num_samples
    if not 0 < count < total:
        raise ValueError(f"fewer_tests: count={count}: expected 1 to {total - 1} of the {total:,} test samples")
    chosen = torch.randperm(total, generator=generator(seed, count))[:count]
    return data.swapped().with_train(chosen.sort().values).swapped()
