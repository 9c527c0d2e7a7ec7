"""Named batches: which entries of a mapping are the input and the labels, where their names say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..inputs import SEVERAL

LABELS = ("y", "label", "labels", "target", "targets")
"""What data sets call the labels."""


def unnamed(batch: Any, where: str, *, labelled: bool = True) -> Any:
    """A mapping of one input and its labels as ``(x, y)``, or as ``(x,)`` without; anything but a mapping as it is.

    Args:
        batch: what the caller's iterable gave; entries may be of any kind.
        where: whose and which it is, as errors say.
        labelled: whether there must be labels.

    Raises:
        ValueError: a mapping whose names do not say which entry is which.
    """
    if not isinstance(batch, Mapping):
        return batch
    labels = [name for name in batch if name in LABELS]
    inputs = [name for name in batch if name not in LABELS]
    if len(inputs) == 1 and len(labels) <= 1 and (labels or not labelled):
        return tuple(batch[name] for name in (*inputs, *labels))
    x, y = (names[0] if names else what for names, what in ((inputs, "x"), (labels, "y")))
    raise ValueError(
        f"{where} is a {type(batch).__name__} of {', '.join(map(repr, batch)) or 'nothing'}: expected one input, and "
        f"labels called {', '.join(LABELS[:-1])} or {LABELS[-1]}. Make pairs, such as "
        f"[(batch[{x!r}], batch[{y!r}]) for batch in batches]; {SEVERAL}"
    )
