"""Batches: what training and analysis see of data. Order and augmentation follow from (seed, epoch, step)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from .arguments import check_whole

Batch = tuple[Tensor, Tensor]
Task = Literal["classification", "segmentation"]

VOID = 255
"""The label of pixels that belong to no class: loss and mIoU ignore them."""


class Batches(ABC):
    """An iterable of ``(x, y)`` batches that can begin at any epoch and step; abstract.

    Attributes:
        num_samples: samples in one epoch.
        batch_size: samples in a batch.
        seed: of order and augmentation, of training batches, whose last smaller one is dropped; None keeps
            the order and every sample.
    """

    num_samples: int
    batch_size: int
    seed: int | None

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from step ``start`` on: the same whenever it is asked."""

    def __len__(self) -> int:
        """Batches in one epoch."""
        whole = self.num_samples // self.batch_size
        return whole if self.seed is not None else -(-self.num_samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)


@final
class LeftOut(dict[str, str]):
    """A note of the samples that were left out: the path or name of each, and why it cannot be read.

    It grows while batches are read, where samples are read as they are needed.
    """


class Data(ABC):
    """A data set: facts about it, and batches of its two splits; abstract.

    Attributes:
        name: as results name it.
        num_classes: number of labels.
        class_names: one per label, for pictures; may be empty.
        task: classification has labels int64 (N,), segmentation int64 (N, H, W) with ``VOID``.
        left_out: what could not be read and was left out so far.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    task: Task
    left_out: LeftOut

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one input: (C, H, W) of images, (F,) of features."""

    @abstractmethod
    def train_batches(
        self, batch_size: int, *, seed: int, device: torch.device | str = "cpu", augment: bool = True
    ) -> Batches:
        """Shuffled training batches, augmented if asked; the last, smaller one of an epoch is dropped."""

    @abstractmethod
    def test_batches(self, batch_size: int = 256, *, device: torch.device | str = "cpu") -> Batches:
        """All test samples, in order, not augmented."""

    def with_channels(self, channels: int) -> Data:
        """The same data with grey images repeated to so many channels. Raises ValueError where that cannot be."""
        check_whole("channels", channels, 1)
        if self.image_shape[0] == channels:
            return self
        raise ValueError(
            f"data set {self.name!r} has images of shape {self.image_shape}: cannot make {channels} channels"
        )

    def with_workers(self, workers: int) -> Data:
        """The same data, read by so many processes; 0 reads in this one. Raises ValueError where none can read it."""
        raise ValueError(f"workers={workers!r}: data set {self.name!r} is not read by worker processes: leave it out")

    def with_train(self, index: Tensor) -> Data:
        """The same data with some of the training samples, by index. Raises ValueError where it cannot choose them."""
        raise ValueError(
            f"data set {self.name!r} comes as a stream whose samples have no numbers: a part of them cannot be held out"
        )

    def from_file(self, path: str | Path) -> Tensor | None:
        """An image file, of any kind that Pillow reads, as ``test_batches`` gives its images: float32 (C, H, W).

        None where samples are not made from image files. Raises OSError or ValueError for a file that cannot be read.
        """
        return None

    def swapped(self) -> Data:
        """The same data with its two splits in each other's place. Raises ValueError where that cannot be."""
        raise ValueError(f"data set {self.name!r} cannot be tested on its training samples: it has no swapped()")

    @abstractmethod
    def pictures(self, index: Sequence[int] | np.ndarray) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Test images for drawing, uint8 (n, C, H, W). Raises ValueError where inputs are no images."""


def generator(*key: int) -> torch.Generator:
    """A generator on the CPU whose stream is a function of a few whole numbers: (seed, epoch, step)."""
    # The length goes in too: to a SeedSequence (seed, epoch) and (seed, epoch, 0) are the same.
    state = np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError where a batch would hold nothing."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")


def check_start(start: int, steps: int) -> None:
    """Raise ValueError where an epoch would begin after its end."""
    if not 0 <= start <= steps:
        raise ValueError(f"an epoch of {steps} batches cannot begin at step {start}")
