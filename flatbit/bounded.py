"""Iterables that never end: an iterable of a caller's is read so far, and no further."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle, repeat
from operator import length_hint
from typing import TypeVar

T = TypeVar("T")

MOST_BATCHES = 10_000
"""So many batches at most come of an iterable that states no length and for which no number was given."""
GRACE = 1000
"""So many more than it states an iterable may give: each worker of a DataLoader ends with a batch of its own."""
TAKE = "say how many to take with num_batches="


def bounded(items: Iterable[T], who: str, *, most: int = MOST_BATCHES, mend: str = TAKE) -> Iterator[T]:
    """All of ``items``, which have to end: within their stated length (and ``GRACE``), else within ``most``.

    Args:
        items: any iterable.
        who: reads them, as the error says.
        most: how many may come of an iterable that states no length.
        mend: what the error tells to do.

    Raises (while iterating):
        ValueError: they seem endless.
    """
    length = length_of(items)
    if length is None and isinstance(items, cycle | repeat):
        raise ValueError(f"{who}: a {type(items).__name__} never ends: {mend}")
    limit = most if length is None else length + GRACE
    for number, item in enumerate(items):
        if number == limit:
            stated = "states no length" if length is None else f"states a length of {length:,}"
            raise ValueError(f"{who}: the iterable {stated} and seems endless, after {limit:,} items: {mend}")
        yield item


def length_of(items: Iterable[object]) -> int | None:
    """How many ``items`` there are, as they state it; None where they do not, as a DataLoader of an IterableDataset."""
    try:
        length = length_hint(items, -1)
    except (NotImplementedError, OverflowError):
        return None
    return None if length < 0 else length
