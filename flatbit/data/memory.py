"""Data sets that fit in memory: they live on the device as they are stored and are augmented there in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .arguments import check_whole
from .augment import Augment
from .batches import (
    VOID,
    Batch,
    Batches,
    Data,
    LeftOut,
    Task,
    check_batch_size,
    check_start,
    generator,
)
from .decode import central_box, read_crop
from .joint import JointAugment, augmented, check_augment
from .normalize import Normalize
from .residence import home_of, to_device


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Images:
    """One split in memory.

    Attributes:
        images: uint8 (N, C, H, W), or float32 features (N, F).
        labels: int64 (N,); of segmentation uint8 masks (N, H, W), which batches give as int64.
    """

    images: Tensor
    labels: Tensor


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MemoryData(Data):
    """A data set that fits in memory, with what its batches need.

    Attributes:
        name: as results name it.
        num_classes: number of labels.
        train, test: the splits.
        mean, std: per channel, of pixels in [0, 1]; of float features as they are.
        augment: what training does to its images; with masks a ``JointAugment``.
        class_names: one per label, for pictures; may be empty.
        task: what the labels are.
        left_out: what could not be read and was left out.

    Raises:
        ValueError: splits that do not fit each other or the facts.
    """

    name: str
    num_classes: int
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | JointAugment = field(default_factory=Augment)
    class_names: tuple[str, ...] = ()
    task: Task = "classification"
    left_out: LeftOut = field(default_factory=LeftOut)

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            _check_split(self, getattr(self, name), f"data set {self.name!r}, {name}")
        check_augment(self.augment, self.task, self.image_shape)
        Normalize(self.mean, self.std).check(self.image_shape)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images, (F,) of features."""
        return tuple(self.train.images.shape[1:])

    def train_batches(
        self, batch_size: int, *, seed: int, device: torch.device | str = "cpu", augment: bool = True
    ) -> TensorBatches:
        """Shuffled, augmented training batches; the last, smaller one of an epoch is dropped."""
        return TensorBatches(self, self.train, batch_size, device, seed=seed, augment=self.augment if augment else None)

    def test_batches(self, batch_size: int = 256, *, device: torch.device | str = "cpu") -> TensorBatches:
        """All test samples, in order, as they are."""
        return TensorBatches(self, self.test, batch_size, device)

    def with_channels(self, channels: int) -> Data:
        """The same data with grey images repeated to so many channels. Raises ValueError where that cannot be."""
        check_whole("channels", channels, 1)
        if channels == 1 or self.image_shape[0] != 1 or len(self.image_shape) != 3:
            return super(MemoryData, self).with_channels(channels)
        train, test = (replace(s, images=s.images.repeat(1, channels, 1, 1)) for s in (self.train, self.test))
        return replace(self, train=train, test=test, mean=self.mean * channels, std=self.std * channels)

    def with_train(self, index: Tensor) -> MemoryData:
        """The same data with some of the training samples, by index."""
        return replace(self, train=Images(images=self.train.images[index], labels=self.train.labels[index]))

    def from_file(self, path: str | Path) -> Tensor | None:
        """The square in the middle of an image file, resized and normalized, grey for one channel; None of features."""
        if len(self.image_shape) != 3:
            return None
        channels, height, width = self.image_shape
        with Image.open(path) as image:
            x = read_crop(image, central_box(*image.size, 1.0), (height, width))
        if channels == 1:
            grey = Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")
            x = torch.from_numpy(np.array(grey))[None]
        return Normalize(self.mean, self.std)(x[None])[0]

    def swapped(self) -> MemoryData:
        """The same data with its two splits in each other's place."""
        return replace(self, train=self.test, test=self.train)

    def pictures(self, index: Sequence[int] | np.ndarray) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Test images for drawing, uint8 (n, C, H, W). Raises ValueError where inputs are no images."""
        if len(self.image_shape) != 3:
            raise ValueError(f"data set {self.name!r} has features, not images: there are no pictures of it")
        return self.test.images[torch.as_tensor(np.asarray(index, dtype=np.int64))].numpy()


@final
class TensorBatches(Batches):
    """Batches of a set that lives on the device, where it fits (``residence``), and is augmented there.

    The order of an epoch and what is random in its augmentation are drawn on the CPU when it begins, from (seed,
    epoch), and copied once: every device sees the same images, and no batch waits for the device.

    Args:
        data: gives mean, std.
        split: its images.
        batch_size: more than the split has samples means one batch of all.
        device: where batches are made.
        seed: shuffles, drops the last smaller batch, and feeds the augmentation; None keeps the order
            and every sample.
        augment: applied per batch; None for nothing.
    """

    def __init__(
        self,
        data: MemoryData,
        split: Images,
        batch_size: int,
        device: torch.device | str,
        *,
        seed: int | None = None,
        augment: Augment | JointAugment | None = None,
    ) -> None:
        check_batch_size(batch_size)
        if not len(split.labels):
            raise ValueError(f"data set {data.name!r}: a split of it has no images")
        self.device = torch.device(device)
        self.home = home_of(split.images.nbytes + split.labels.nbytes, self.device, data.name)
        # Channels last in memory too: a row of an image is then one run, and is copied as one.
        self.images = split.images.movedim(1, -1).contiguous().to(self.home)
        self.labels = split.labels.to(self.home)
        self.shape = split.images.shape[1:]
        self.num_samples = len(self.labels)
        self.batch_size = min(batch_size, self.num_samples)
        self.seed = seed
        self.augment = augment or Augment()
        self.normalize = Normalize(data.mean, data.std)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        check_start(start, len(self))
        stream = generator(self.seed or 0, epoch)
        order = torch.arange(self.num_samples)
        if self.seed is not None:
            order = torch.randperm(self.num_samples, generator=stream)
        order = to_device(order, self.home)
        draws = to_device(self.augment.draw(self.num_samples, self.shape, stream), self.device)
        for step in range(start, len(self)):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            images = self._rows(self.images, order[batch]).movedim(-1, 1)
            labels = self._rows(self.labels, order[batch])
            images, labels = augmented(self.augment, images, labels, draws[batch])
            yield self.normalize(images), labels.long()

    def _rows(self, values: Tensor, index: Tensor) -> Tensor:
        return to_device(values.index_select(0, index), self.device)


def _check_split(data: MemoryData, split: Images, where: str) -> None:
    """Raise ValueError where a split's tensors do not fit each other or the facts."""
    images, labels = split.images, split.labels
    known = images.dtype in (torch.uint8, torch.float32) and images.ndim > 1
    if not known or images.shape[1:] != data.train.images.shape[1:]:
        raise ValueError(
            f"{where}: images are {images.dtype} {tuple(images.shape)}, expected uint8 or float32 (N, ...) "
            f"of the training images' shape {data.image_shape}"
        )
    if images.is_floating_point() and not (finite := images.isfinite().flatten(1).all(1)).all():
        first = int(finite.logical_not().nonzero()[0])
        raise ValueError(f"{where}: sample {first} has NaN or infinite values, expected finite ones: mend or remove it")
    if data.task == "segmentation":
        kind, shape = torch.uint8, (len(images), *images.shape[2:])
    else:
        kind, shape = torch.int64, (len(images),)
    if labels.dtype != kind or labels.shape != shape:
        raise ValueError(f"{where}: labels are {labels.dtype} {tuple(labels.shape)}, expected {kind} {shape}")
    wrong = (labels < 0) | (labels >= data.num_classes)
    if data.task == "segmentation":
        wrong &= labels != VOID
    if wrong.any():
        found = int(labels[wrong][0])
        raise ValueError(f"{where}: a label is {found}, expected 0..{data.num_classes - 1}")
