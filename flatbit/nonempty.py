"""Batches that are there: work over an iterable refuses an empty one before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from .bounded import bounded

T = TypeVar("T")


def nonempty(batches: Iterable[T], who: str, limit: int | None = None) -> Iterator[T]:
    """An iterator over ``batches``, whose first one is fetched at once.

    Args:
        batches: any iterable.
        who: needs them, as the error says.
        limit: how many to take, of an endless iterable too; None for all of one that ends (``bounded``).

    Raises:
        ValueError: there is none, or none asked for; while iterating, an iterable without a limit that seems endless.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"{who}: num_batches={limit}: expected 1 or more, or None for all of an iterable that ends")
    iterator = bounded(batches, who) if limit is None else islice(batches, limit)
    for first in iterator:
        return chain((first,), iterator)
    raise ValueError(f"{who} got no batches: the iterable is empty, or was used up before")
