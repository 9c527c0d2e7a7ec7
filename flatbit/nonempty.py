"""Batches that are there: work over an iterable refuses an empty one before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TypeVar

T = TypeVar("T")


def nonempty(batches: Iterable[T], who: str) -> Iterator[T]:
    """An iterator over ``batches``, whose first one is fetched at once.

    Args:
        batches: any iterable.
        who: needs them, as the error says.

    Raises:
        ValueError: there is none.
    """
    iterator = iter(batches)
    for first in iterator:
        return chain((first,), iterator)
    raise ValueError(f"{who} got no batches: the iterable is empty, or was used up before")
