"""The door for the user's own data: a Dataset, or an iterable of ``(x, y)`` samples or batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from .arguments import check_whole, per_channel
from .augment import Augment
from .batches import VOID, Batch, Task
from .global_random import OwnRandom
from .joint import JointAugment
from .samples import Samples, reason
from .sequential import Sequential
from .stream import StreamData

LABEL_DIMS = {"classification": 0, "segmentation": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What samples do not say of themselves.

    Attributes:
        name: of the set, as results name it.
        task: what the labels are.
        class_names: one per label, for pictures; may be empty.
    """

    name: str = "user"
    task: Task = "classification"
    class_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.task not in LABEL_DIMS:
            raise ValueError(f"task={self.task!r}: expected one of {', '.join(LABEL_DIMS)}")


def user_data(
    train: Any,
    test: Any,
    *,
    num_classes: int,
    about: About | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: Augment | JointAugment | None = None,
    skip_bad: bool = False,
) -> StreamData:
    """A ``Data`` of anything that gives ``(x, y)``.

    x is a tensor or array, uint8 (pixels, divided by 255) or float (taken as it is), images as (C, H, W);
    y is a whole number, or of segmentation a mask (H, W) of whole numbers with 255 for void. Every
    sample has the same shape.

    A map-style Dataset (or list) is shuffled and can begin at any step without reading what was before.
    What it draws from the global random state of Python, numpy or torch is a function of (seed, epoch,
    index). Any other iterable, and one that gives batches, is read from its beginning each epoch, in its
    own order; it is read through once here, to count and check it. Batches are regrouped. This process reads;
    ``with_workers`` of the result gives a map-style Dataset worker processes.

    Args:
        train, test: the splits: map-style Datasets, lists, or iterables that can be iterated again.
        num_classes: labels are 0..num_classes-1.
        about: what samples do not say of themselves; a classification set called ``user`` where not given.
        mean, std: per channel, of pixels in [0, 1] or of floats as they are; 0 and 1 where not given.
        augment: of whole training batches on their device.
        skip_bad: leave out what a map-style Dataset cannot read, and list it; else raise.

    Raises:
        ValueError: a split that is empty, used up after one pass, or gives something else than this; floats that are
            NaN or infinite.
    """
    check_whole("num_classes", num_classes, 1)
    about = about or About()
    if about.class_names and len(about.class_names) != num_classes:
        raise ValueError(f"class_names has {len(about.class_names)} names for num_classes={num_classes}")
    form = _Form(num_classes, about.task)
    splits = [_split(source, form, where) for source, where in ((train, "train"), (test, "test"))]
    assert form.shape is not None  # set by the first sample; no split is empty
    channels = form.shape[0]
    return StreamData(
        name=about.name,
        num_classes=num_classes,
        train=splits[0],
        test=splits[1],
        shape=form.shape,
        mean=per_channel("mean", mean) if mean is not None else (0.0,) * channels,
        std=per_channel("std", std) if std is not None else (1.0,) * channels,
        augment=augment,
        class_names=tuple(about.class_names),
        task=about.task,
        skip_bad=skip_bad,
    )


@final
class _Form:
    """What every sample has to look like; the first one fixes the shape."""

    def __init__(self, num_classes: int, task: Task) -> None:
        self.num_classes, self.task = num_classes, task
        self.shape: tuple[int, ...] | None = None
        self.dtype: torch.dtype | None = None

    def samples(self, item: Any, where: str) -> list[Batch]:
        """The samples of an item: itself, or those of a batch, told by the labels' dimensions."""
        x, y = _pair(item, where)
        if y.ndim == LABEL_DIMS[self.task]:
            return [self.checked(x, y, where)]
        if y.ndim != LABEL_DIMS[self.task] + 1 or not x.ndim or len(x) != len(y):
            raise ValueError(f"{where}: x {tuple(x.shape)} and y {tuple(y.shape)} are neither a sample nor a batch")
        return [self.checked(x[i], y[i], f"{where}, sample {i}") for i in range(len(y))]

    def sample(self, item: Any, where: str) -> Batch:
        """The one sample of an item."""
        x, y = _pair(item, where)
        if y.ndim != LABEL_DIMS[self.task]:
            raise ValueError(f"{where}: label of shape {tuple(y.shape)} is no label of one sample ({self.task})")
        return self.checked(x, y, where)

    def checked(self, x: Tensor, y: Tensor, where: str) -> Batch:
        """The sample, with labels int64. Raises ValueError where it is not like the first or the labels are wrong."""
        if not x.ndim:
            raise ValueError(f"{where}: x is a single number, expected an image (C, H, W) or features (F,)")
        if not x.isfinite().all():
            count = int(x.isfinite().logical_not().sum())
            raise ValueError(f"{where}: {count} of {x.numel()} values of x are NaN or infinite, expected finite ones")
        if self.shape is None or self.dtype is None:
            if x.ndim == 3 and x.shape[-1] in (1, 3, 4) and x.shape[0] > 4:
                raise ValueError(
                    f"{where}: x is {tuple(x.shape)}, channels last: expected (C, H, W), x.permute(2, 0, 1)"
                )
            self.shape, self.dtype = tuple(x.shape), x.dtype
        if (tuple(x.shape), x.dtype) != (self.shape, self.dtype):
            raise ValueError(
                f"{where}: x is {x.dtype} {tuple(x.shape)}, and the first sample {self.dtype} {self.shape}: "
                "bring all samples to one shape and type"
            )
        if self.task == "segmentation" and y.shape != x.shape[1:]:
            raise ValueError(f"{where}: the mask is {tuple(y.shape)}, its image {tuple(x.shape)}")
        y = y.long()
        known = y[y != VOID] if self.task == "segmentation" else y
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < self.num_classes:
            wrong = int(known.min()) if int(known.min()) < 0 else int(known.max())
            raise ValueError(f"{where}: label {wrong}, expected 0..{self.num_classes - 1} (num_classes)")
        return x, y


def _pair(item: Any, where: str) -> Batch:
    """An item as two tensors. Raises ValueError saying what it is instead."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        kind = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        raise ValueError(f"{where} is a {kind}, expected a pair (x, y); two tensors make one in a TensorDataset(x, y)")
    x, y = item
    if not isinstance(x, Tensor | np.ndarray):
        raise ValueError(f"{where}: x is a {type(x).__name__}, expected a tensor or array: convert it in your Dataset")
    x = torch.as_tensor(x).detach()
    if x.dtype != torch.uint8:
        if not x.is_floating_point():
            raise ValueError(f"{where}: x is {x.dtype}, expected uint8 (pixels) or float")
        x = x.float()
    if not isinstance(y, int | np.integer | np.ndarray | Tensor) or isinstance(y, bool):
        raise ValueError(f"{where}: the label is {y!r} ({type(y).__name__}), expected a whole number")
    y = torch.as_tensor(y).detach()
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"{where}: labels are {y.dtype}, expected whole numbers")
    return x, y


@final
class _UserSamples(Samples):
    """A map-style Dataset whose samples are checked."""

    def __init__(self, dataset: Any, form: _Form, where: str) -> None:
        self.dataset, self.form, self.where = dataset, form, where

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, stream: torch.Generator | None) -> Batch:
        """The Dataset's sample; the global random state it sees starts from the stream, or from the index."""
        with OwnRandom(stream.initial_seed() if stream is not None else index).within():
            item = self.dataset[index]
        return self.form.sample(item, self.name(index))

    def name(self, index: int) -> str:
        """As errors name it: ``train[7]``."""
        return f"{self.where}[{index}]"


@final
class _Indexed:
    """A map-style source of whole batches, as an iterable."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Any]:
        return (self.source[index] for index in range(len(self.source)))


def _split(source: Any, form: _Form, where: str) -> Samples | Sequential:
    """A split of the user's: map-style where it gives single samples by index, else an iterable."""
    map_style = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if map_style and not isinstance(source, IterableDataset | dict):
        if not len(source):
            raise ValueError(f"{where} has no samples")
        samples = _UserSamples(source, form, where)
        if _label_dims(source, samples) == LABEL_DIMS[form.task]:
            _first(samples)
            return samples
        source = _Indexed(source)
    if not isinstance(source, Iterable) or isinstance(source, dict | str):
        raise ValueError(
            f"{where} is a {type(source).__name__}: expected a Dataset with __getitem__ and __len__, or an iterable "
            "of (x, y)"
        )
    if iter(source) is source:
        raise ValueError(
            f"{where} is a {type(source).__name__}, which is used up after one pass: give a list, a Dataset, a "
            "DataLoader, or an object whose __iter__ starts afresh"
        )
    return _sequential(source, form, where)


def _label_dims(source: Any, samples: _UserSamples) -> int:
    """Dimensions of the first label; that of one sample where the first item is invalid and is met again when read."""
    try:
        with OwnRandom(0).within():
            return _pair(source[0], samples.name(0))[1].ndim
    except Exception:
        return LABEL_DIMS[samples.form.task]


def _first(samples: _UserSamples) -> None:
    """Read until a sample fixes the shape. Raises ValueError with the first sample's error where none can be read."""
    errors: list[Exception] = []
    for index in range(min(len(samples), 100)):
        try:
            samples.read(index, None)
            return
        except Exception as error:
            errors.append(error)
    raise ValueError(f"no sample of {samples.where} can be read: {samples.name(0)}: {reason(errors[0])}") from errors[0]


def _sequential(source: Iterable[Any], form: _Form, where: str) -> Sequential:
    """Read the iterable once, to count and check its samples."""
    samples = partial(_numbered, form, where)
    with OwnRandom(0).within():
        size = sum(len(samples(number, item)) for number, item in enumerate(source))
    if not size:
        raise ValueError(f"{where} gave no samples: it is empty, or was used up before")
    return Sequential(items=source, samples=samples, size=size, where=where)


def _numbered(form: _Form, where: str, number: int, item: Any) -> list[Batch]:
    return form.samples(item, f"{where}, item {number}")
