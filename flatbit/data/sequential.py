"""Iterables of ``(x, y)``: read from the beginning each epoch, in their own order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counting
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor

from .augment import Augment
from .batches import (
    Batch,
    Batches,
    check_batch_size,
    check_start,
    generator,
)
from .global_random import OwnRandom
from .joint import JointAugment, augmented
from .normalize import Normalize
from .residence import to_device
from .samples import stack


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sequential:
    """A split that can only be read from its beginning.

    Attributes:
        items: gives the same samples each time it is iterated, one at a time or in batches.
        samples: what turns an item into samples (x, y), checked; gets the item's number.
        size: how many samples there are.
        where: what to call it in errors.
    """

    items: Iterable[Any]
    samples: Callable[[int, Any], list[Batch]]
    size: int
    where: str

    def __len__(self) -> int:
        return self.size

    def read(self, seed: int) -> Iterator[Batch]:
        """All samples, with global random state of its own from ``seed``. Raises ValueError at another number."""
        own, count = OwnRandom(seed), 0
        with own.within():
            items = iter(self.items)
        for number in counting():
            with own.within():
                try:
                    item = next(items)
                except StopIteration:
                    break
            for sample in self.samples(number, item):
                count += 1
                if count > self.size:  # it may go on for ever
                    raise self._another(count)
                yield sample
        if count != self.size:
            raise self._another(count)

    def _another(self, count: int) -> ValueError:
        return ValueError(
            f"{self.where} gave {count} samples, and {self.size} when it was read first: an iterable has to "
            "give the same ones each time it is iterated"
        )

    def at(self, index: Sequence[int]) -> list[Tensor]:
        """The inputs at some places."""
        wanted = set(index)
        found = {i: x for i, (x, _) in enumerate(islice(self.read(0), max(wanted) + 1)) if i in wanted}
        return [found[i] for i in index]


@final
class SequentialBatches(Batches):
    """Batches of an iterable; one that begins at a later step still reads what comes before, and drops it.

    Args:
        split: the samples.
        batch_size: of the batches made, whatever the iterable's own; all samples at most.
        device: where batches go.
        seed: of global random state, together with the epoch, and of the augmentation; the last smaller
            batch is dropped. None keeps every sample.
        normalize: what is done to the values.
        augment: what is done to whole batches; None for nothing.
    """

    def __init__(
        self,
        split: Sequential,
        batch_size: int,
        device: torch.device | str,
        *,
        normalize: Normalize,
        seed: int | None = None,
        augment: Augment | JointAugment | None = None,
    ) -> None:
        check_batch_size(batch_size)
        self.split, self.seed, self.augment = split, seed, augment
        self.device = torch.device(device)
        self.num_samples = len(split)
        self.batch_size = min(batch_size, self.num_samples)
        self.normalize = normalize

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        check_start(start, len(self))
        seed = generator(self.seed or 0, epoch if self.seed is not None else 0).initial_seed()
        samples = self.split.read(seed)
        for step in range(len(self)):
            batch = list(islice(samples, self.batch_size))
            if step >= start and batch:
                yield self._finish(batch, epoch, step)
        for _ in samples:  # to the end: what an iterable gives too much or too little is an error, not a loss
            pass

    def _finish(self, batch: list[Batch], epoch: int, step: int) -> Batch:
        x = to_device(stack([x for x, _ in batch]), self.device)
        y = to_device(torch.stack([y for _, y in batch]), self.device)
        if self.augment is not None:
            draws = self.augment.draw(len(x), x.shape[1:], generator(self.seed or 0, epoch, step))
            x, y = augmented(self.augment, x, y, to_device(draws, self.device))
        return self.normalize(x), y.long()
