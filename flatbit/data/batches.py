"""Batches: what training and analysis see of data. Order and augmentation follow from (seed, epoch, step)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor

from .augment import Augment

Batch = tuple[Tensor, Tensor]


class Batches(ABC):
    """An iterable of ``(x, y)`` batches that can begin at any epoch and step; abstract.

    Attributes:
        num_samples: samples in one epoch.
    """

    num_samples: int

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from step ``start`` on: the same whenever it is asked."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches in one epoch."""

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Images:
    """Labelled images in memory: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """A data set that fits in memory, with what its batches need.

    Attributes:
        name: as results name it.
        num_classes: number of labels.
        train, test: the splits.
        mean, std: per channel, of pixels in [0, 1].
        augment: what training does to its images.
        class_names: one per label, for pictures; may be empty.
    """

    name: str
    num_classes: int
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment = field(default_factory=Augment)
    class_names: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def train_batches(
        self, batch_size: int, *, seed: int, device: torch.device | str = "cpu", augment: bool = True
    ) -> TensorBatches:
        """Shuffled, augmented training batches; the last, smaller one of an epoch is dropped."""
        return TensorBatches(self, self.train, batch_size, device, seed=seed, augment=self.augment if augment else None)

    def test_batches(self, batch_size: int = 256, *, device: torch.device | str = "cpu") -> TensorBatches:
        """All test images, in order, as they are."""
        return TensorBatches(self, self.test, batch_size, device)


@final
class TensorBatches(Batches):
    """Batches of a set that lives on the device as uint8 and is augmented there.

    Args:
        data: gives mean, std.
        split: its images.
        batch_size: more than the split has samples means one batch of all.
        device: where batches are made.
        seed: shuffles, drops the last smaller batch, and feeds the augmentation; None keeps the order
            and every sample.
        augment: applied per batch, with a generator of (seed, epoch, step).
    """

    def __init__(
        self,
        data: Data,
        split: Images,
        batch_size: int,
        device: torch.device | str,
        *,
        seed: int | None = None,
        augment: Augment | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected at least 1")
        if not len(split.labels):
            raise ValueError(f"data set {data.name!r}: a split of it has no images")
        self.device = torch.device(device)
        self.images = split.images.to(self.device)
        self.labels = split.labels.to(self.device)
        self.num_samples = len(self.labels)
        self.batch_size = min(batch_size, self.num_samples)
        self.seed = seed
        self.augment = augment
        scale = 255 * torch.tensor(data.std)
        self.scale = scale.reshape(-1, 1, 1).to(self.device)
        self.mean = (255 * torch.tensor(data.mean)).reshape(-1, 1, 1).to(self.device)

    def __len__(self) -> int:
        whole = self.num_samples // self.batch_size
        return whole if self.seed is not None else -(-self.num_samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.arange(self.num_samples)
        if self.seed is not None:
            order = torch.randperm(self.num_samples, generator=generator(self.seed, epoch))
        order = order.to(self.device)
        for step in range(start, len(self)):
            index = order[step * self.batch_size : (step + 1) * self.batch_size]
            images = self.images[index]
            if (augment := self.augment) is not None:
                images = augment(images, generator(self.seed or 0, epoch, step, device=self.device))
            x = (images.float() - self.mean) / self.scale
            yield x.contiguous(memory_format=torch.channels_last), self.labels[index]


def generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream is a function of a few whole numbers: (seed, epoch, step)."""
    # The length goes in too: to a SeedSequence (seed, epoch) and (seed, epoch, 0) are the same.
    state = np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
