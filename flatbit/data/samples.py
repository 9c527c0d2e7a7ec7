"""Samples that are read one at a time, and the reader that makes a batch of them in a worker process."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .batches import Batch, generator


class Samples(ABC):
    """One split whose samples are read when they are needed; abstract."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def read(self, index: int, stream: torch.Generator | None) -> Batch:
        """Sample (x, y); augmented from ``stream`` where one is given. Raises what it likes where it cannot be read."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call a sample in an error: its path, where it has one."""

    def from_file(self, path: str | Path) -> Tensor | None:
        """An image file as ``read`` gives x of samples that are not augmented; None where no files are read."""
        return None


@final
class Chosen(Samples):
    """Some samples of others, by index."""

    def __init__(self, samples: Samples, index: Tensor) -> None:
        self.samples = samples
        self.index = index.tolist()

    def __len__(self) -> int:
        return len(self.index)

    def read(self, index: int, stream: torch.Generator | None) -> Batch:
        """As theirs."""
        return self.samples.read(self.index[index], stream)

    def name(self, index: int) -> str:
        """As theirs."""
        return self.samples.name(self.index[index])

    def from_file(self, path: str | Path) -> Tensor | None:
        """As theirs."""
        return self.samples.from_file(path)


class Bad(NamedTuple):
    """A sample that could not be read: what it is called, why, and where the error arose."""

    name: str
    reason: str
    trace: str


class Part(NamedTuple):
    """What a worker hands over: a stacked batch, empty where nothing could be read, and the samples that could not."""

    x: Tensor
    y: Tensor
    bad: list[Bad]


@final
class Reader(Dataset[Part]):
    """Makes whole batches: the item of ``(epoch, indices)``.

    Args:
        samples: what to read.
        seed: augmentation is a function of (seed, epoch, index); None reads the samples as they are.
    """

    def __init__(self, samples: Samples, seed: int | None) -> None:
        self.samples = samples
        self.seed = seed

    def __getitem__(self, key: tuple[int, list[int]]) -> Part:
        epoch, indices = key
        good: list[Batch] = []
        bad: list[Bad] = []
        for index in indices:
            stream = None if self.seed is None else generator(self.seed, epoch, index)
            try:
                good.append(self.samples.read(index, stream))
            except Exception as error:  # whatever foreign code and decoders raise; the caller decides
                bad.append(Bad(self.samples.name(index), reason(error), traceback.format_exc()))
        if not good:
            return Part(torch.empty(0), torch.empty(0, dtype=torch.long), bad)
        return Part(stack([x for x, _ in good]), torch.stack([y for _, y in good]), bad)


def stack(images: list[Tensor]) -> Tensor:
    """Stack along a new first dimension; images (C, H, W) give a batch that is channels-last in memory."""
    if images[0].ndim != 3:
        return torch.stack(images)
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def left_out_text(name: str, bad: Mapping[str, str]) -> str:
    """What a warning says of samples, names and reasons, that a data set leaves out."""
    return f"data set {name!r}: left out {len(bad)} samples that cannot be read: {listed(bad)}"


def listed(bad: Mapping[str, str], most: int = 5) -> str:
    """The first names with their reasons, and how many more there are."""
    shown = "; ".join(f"{name} ({why})" for name, why in list(bad.items())[:most])
    return shown + (f"; and {len(bad) - most} more, all in the data's left_out" if len(bad) > most else "")


def reason(error: Exception) -> str:
    """An error in one line."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
