"""Data sets that are read as they are needed: large sets, and any Dataset or iterable of the user's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .arguments import check_whole
from .augment import Augment
from .batches import (
    Batch,
    Batches,
    Data,
    LeftOut,
    Task,
    check_batch_size,
    check_start,
    generator,
)
from .joint import JointAugment, augmented, check_augment
from .normalize import Normalize
from .residence import to_device
from .samples import (
    Chosen,
    Part,
    Reader,
    Samples,
    left_out_text,
    listed,
)
from .sequential import Sequential, SequentialBatches

MOST_WORKERS = 16


@final
@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StreamData(Data):
    """A data set that is read sample by sample, by worker processes where there are any.

    Attributes:
        name: as results name it.
        num_classes: number of labels.
        train, test: the splits.
        shape: of one input as batches have it: (C, H, W) of images, (F,) of features.
        mean, std: per channel, of pixels in [0, 1]; of float inputs as they are.
        augment: what training does to whole batches on the device, after the samples' own augmentation.
        class_names: one per label, for pictures; may be empty.
        task: what the labels are.
        workers: processes that read; 0 reads in this one.
        skip_bad: leave out samples that cannot be read, instead of raising at the first.
        left_out: what was left out so far, which grows while batches are read.
    """

    name: str
    num_classes: int
    train: Samples | Sequential
    test: Samples | Sequential
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | JointAugment | None = None
    class_names: tuple[str, ...] = ()
    task: Task = "classification"
    workers: int = 0
    skip_bad: bool = False
    left_out: LeftOut = field(default_factory=LeftOut)

    def __post_init__(self) -> None:
        check_whole("workers", self.workers, 0)
        for name in ("train", "test"):
            if not len(getattr(self, name)):
                raise ValueError(f"data set {self.name!r}: {name} has no samples")
        check_augment(self.augment, self.task, self.shape)
        Normalize(self.mean, self.std).check(self.shape)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images, (F,) of features."""
        return self.shape

    def train_batches(
        self, batch_size: int, *, seed: int, device: torch.device | str = "cpu", augment: bool = True
    ) -> Batches:
        """Training batches of readable samples, shuffled but for iterables; the last, smaller one is dropped.

        ``augment=False`` switches off what this package does; what a Dataset of the user's does, it does.
        """
        if isinstance(self.train, Sequential):
            chosen = self.augment if augment else None
            normalize = Normalize(self.mean, self.std)
            return SequentialBatches(self.train, batch_size, device, normalize=normalize, seed=seed, augment=chosen)
        return StreamBatches(self, self.train, batch_size, device, seed=seed, augment=augment)

    def test_batches(self, batch_size: int = 256, *, device: torch.device | str = "cpu") -> Batches:
        """All readable test samples, in order, not augmented."""
        if isinstance(self.test, Sequential):
            return SequentialBatches(self.test, batch_size, device, normalize=Normalize(self.mean, self.std))
        return StreamBatches(self, self.test, batch_size, device)

    def with_workers(self, workers: int) -> StreamData:
        """The same data, read by so many processes; 0 reads in this one. Raises ValueError for no such number."""
        return replace(self, workers=workers)

    def with_train(self, index: Tensor) -> Data:
        """The same data with some of the training samples, by index. Raises ValueError for an iterable."""
        if isinstance(self.train, Sequential):
            return super(StreamData, self).with_train(index)
        return replace(self, train=Chosen(self.train, index))

    def from_file(self, path: str | Path) -> Tensor | None:
        """An image file as the test split has its own, normalized; None where that is not read from files."""
        x = None if isinstance(self.test, Sequential) else self.test.from_file(path)
        return None if x is None else Normalize(self.mean, self.std)(x[None])[0]

    def swapped(self) -> StreamData:
        """The same data with its two splits in each other's place."""
        return replace(self, train=self.test, test=self.train)

    def pictures(self, index: Sequence[int] | np.ndarray) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Test images for drawing, uint8 (n, C, H, W); the index counts what ``test_batches`` gave so far.

        Float images are stretched from their least to their largest value.
        Raises ValueError where inputs are no images.
        """
        if len(self.shape) != 3:
            raise ValueError(f"data set {self.name!r} has features, not images: there are no pictures of it")
        if not len(index):
            return np.empty((0, *self.shape), np.uint8)
        chosen = [int(i) for i in np.asarray(index)]
        if isinstance(self.test, Sequential):
            images = self.test.at(chosen)
        else:
            names = self.test.name
            given = [i for i in range(len(self.test)) if not self.left_out or names(i) not in self.left_out]
            images = [self.test.read(given[i], None)[0] for i in chosen]
        return np.stack([_picture(image).numpy() for image in images])


@final
class StreamBatches(Batches):
    """Batches of samples that workers read; order, and augmentation, follow from (seed, epoch, step or index).

    With ``data.skip_bad`` a batch without one readable sample is left out: an epoch then gives fewer batches
    than its length, and the step it begins at counts the one left out too.

    Args:
        data: gives what the batches need, and takes note of what is left out.
        samples: the split.
        batch_size: more than the split has samples means one batch of all.
        device: where batches go; to an accelerator they go through pinned memory.
        seed: shuffles, drops the last smaller batch, and feeds the augmentation; None keeps the order
            and every sample.
        augment: whether to augment.

    Raises (while iterating):
        ValueError: a sample that cannot be read, by path, unless ``data.skip_bad``; a whole epoch of them.
    """

    def __init__(
        self,
        data: StreamData,
        samples: Samples,
        batch_size: int,
        device: torch.device | str,
        *,
        seed: int | None = None,
        augment: bool = False,
    ) -> None:
        check_batch_size(batch_size)
        self.data, self.seed, self.augment = data, seed, augment
        self.device = torch.device(device)
        self.num_samples = len(samples)
        self.batch_size = min(batch_size, self.num_samples)
        self.normalize = Normalize(data.mean, data.std)
        self._reader = Reader(samples, seed if augment else None)
        self._plan = _Plan()
        self._loader: DataLoader[Part] | None = None
        self._busy = False

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        check_start(start, len(self))
        new: dict[str, str] = {}
        bad: dict[str, str] = {}
        given = start > 0  # an epoch that began earlier gave what it had then
        parts = self._parts(epoch, start)
        try:
            for step, part in enumerate(parts, start):
                new |= self._note(part)
                bad |= {name: reason for name, reason, _ in part.bad if not given}
                if len(part.y):
                    given = True
                    yield self._finish(part.x, part.y, epoch, step)
            if not given:
                raise ValueError(
                    f"not one sample of a whole epoch of data set {self.data.name!r} can be read: {listed(bad)}"
                )
        finally:
            parts.close()
            if new:
                warnings.warn(left_out_text(self.data.name, new), stacklevel=2)

    def _parts(self, epoch: int, start: int) -> Generator[Part]:
        """What the workers hand over. The loader and its workers stay, but serve one epoch at a time."""
        mine = not self._busy
        plan = self._plan if mine else _Plan()
        loader = self._loader if mine else None
        if loader is None:
            loader = _loader(self._reader, plan, self.data.workers, self.device, keep=mine)
        plan.set(self._order(epoch), self.batch_size, epoch, range(start, len(self)))
        if mine:
            self._loader, self._busy = loader, True
        try:
            yield from loader
        finally:
            if mine:
                self._busy = False

    def _order(self, epoch: int) -> Tensor:
        if self.seed is None:
            return torch.arange(self.num_samples)
        return torch.randperm(self.num_samples, generator=generator(self.seed, epoch))

    def _note(self, part: Part) -> dict[str, str]:
        """The unreadable samples that were not known before. Raises ValueError where they are not to be left out."""
        if part.bad and not self.data.skip_bad:
            error = ValueError(
                f"{part.bad[0].name}: {part.bad[0].reason}. Mend or remove it, or leave such samples out and "
                "have them listed: skip_bad=True (--skip-bad)"
            )
            error.add_note(part.bad[0].trace)
            raise error
        new = {bad.name: bad.reason for bad in part.bad if bad.name not in self.data.left_out}
        self.data.left_out.update(new)
        return new

    def _finish(self, x: Tensor, y: Tensor, epoch: int, step: int) -> Batch:
        x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        if self.augment and self.data.augment is not None:
            draws = self.data.augment.draw(len(x), x.shape[1:], generator(self.seed or 0, epoch, step))
            x, y = augmented(self.data.augment, x, y, to_device(draws, self.device))
        return self.normalize(x), y.long()


@final
class _Plan:
    """The keys that one epoch sends to the workers; a DataLoader's sampler that can be set anew."""

    def __init__(self) -> None:
        self._keys: Iterator[tuple[int, list[int]]] = iter(())

    def set(self, order: Tensor, size: int, epoch: int, steps: range) -> None:
        self._keys = ((epoch, order[step * size : (step + 1) * size].tolist()) for step in steps)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return self._keys


def _loader(reader: Reader, plan: _Plan, workers: int, device: torch.device, *, keep: bool) -> DataLoader[Part]:
    return DataLoader(
        reader,
        batch_size=None,  # the reader makes whole batches
        sampler=plan,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        persistent_workers=keep and workers > 0,
        generator=torch.Generator(),  # so that the global one is left alone
    )


def _as_it_is(part: Any) -> Any:
    return part


def default_workers() -> int:
    """One reading process per core that this process may use, 16 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


def _picture(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    least, largest = image.min(), image.max()
    return ((image - least) / (largest - least).clamp(min=1e-12) * 255).round().to(torch.uint8)
