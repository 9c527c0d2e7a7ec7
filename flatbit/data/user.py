"""The door for the user's own data: a Dataset, or an iterable of ``(x, y)`` samples or batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, final

import torch
from torch.utils.data import DataLoader, IterableDataset

from ..bounded import bounded, length_of
from .arguments import check_whole, per_channel
from .augment import Augment
from .batches import Batch
from .form import About, Form
from .global_random import OwnRandom
from .joint import JointAugment
from .samples import Samples, reason
from .sequential import Sequential
from .stream import StreamData

MOST_SAMPLES = 250_000
"""So many samples at most come of an iterable that states no length."""
ENDING = "give it an end, with itertools.islice in its __iter__, or its length, with __len__"


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

    x is a tensor or array, uint8 (pixels, divided by 255) or float (taken as it is): an image (C, H, W) or
    features (F,); signals (C, L) and volumes (C, D, H, W) where ``about`` says so. y is a whole number of any type,
    or an array of one, or of segmentation a mask (H, W) with 255 for void. Every sample has the same shape.

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
        ValueError: a split that is empty, endless, used up after one pass, or gives something else than this; what may
            be a sample or a batch; floats that are NaN or infinite; an ``augment`` that is not for such data.
    """
    check_whole("num_classes", num_classes, 1)
    about = about or About()
    if about.class_names and len(about.class_names) != num_classes:
        raise ValueError(f"class_names has {len(about.class_names)} names for num_classes={num_classes}")
    form = Form(num_classes, about)
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
class _UserSamples(Samples):
    """A map-style Dataset whose samples are checked."""

    def __init__(self, dataset: Any, form: Form, where: str) -> None:
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


def _split(source: Any, form: Form, where: str) -> Samples | Sequential:
    """A split of the user's: map-style where it gives single samples by index, else an iterable."""
    map_style = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if map_style and not isinstance(source, IterableDataset | dict):
        if not len(source):
            raise ValueError(f"{where} has no samples")
        samples = _UserSamples(source, form, where)
        if not _gives_batches(source, samples):
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


def _gives_batches(source: Any, samples: _UserSamples) -> bool:
    """Whether the first item is a batch; not where it is invalid, which is met again when it is read."""
    try:
        with OwnRandom(0).within():
            return samples.form.is_batch(source[0], samples.name(0))
    except Exception:
        return False


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


def _sequential(source: Iterable[Any], form: Form, where: str) -> Sequential:
    """Read the iterable once, to count and check its samples. Raises ValueError where it seems endless."""
    items = _Items(form, where, batched=isinstance(source, DataLoader) and source.batch_sampler is not None)
    given = bounded(source, where, most=MOST_SAMPLES, mend=ENDING)
    samples = (sample for number, item in enumerate(given) for sample in items(number, item))
    if length_of(source) is None:
        samples = bounded(samples, where, most=MOST_SAMPLES, mend=ENDING)
    with OwnRandom(0).within():
        size = sum(1 for _ in samples)
    if not size:
        raise ValueError(f"{where} gave no samples: it is empty, or was used up before")
    return Sequential(items=source, samples=items, size=size, where=where)


@final
class _Items:
    """Makes samples of an iterable's items, which all are batches once one of several samples came."""

    def __init__(self, form: Form, where: str, *, batched: bool) -> None:
        self.form, self.where, self.batched = form, where, batched

    def __call__(self, number: int, item: Any) -> list[Batch]:
        samples = self.form.samples(item, f"{self.where}, item {number}", batched=self.batched)
        self.batched = self.batched or len(samples) > 1
        return samples
