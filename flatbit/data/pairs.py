"""A batch of a caller's as tensors: ``(x, y)``, or x alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..inputs import SEVERAL
from .batches import Batch
from .named import unnamed


def pair_of(batch: Any, where: str) -> Batch:
    """The two tensors of a batch ``(x, y)``, or of a mapping whose names tell them (``named``).

    Args:
        batch: what the caller's iterable gave.
        where: whose and which batch it is, as errors say.

    Raises:
        ValueError: anything but a pair of tensors with one label for each input.
    """
    batch = unnamed(batch, where)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        more = isinstance(batch, tuple | list) and len(batch) > 2
        how = ", such as [(batch[0], batch[1]) for batch in batches]" if more else ""
        raise ValueError(f"{where} is a {_kind(batch)}, expected a pair of tensors (x, y): make one of it{how}")
    x, y = batch
    if _is_several(x):
        raise ValueError(f"{where} has a {_kind(x)} for x, expected one tensor: {SEVERAL}")
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise ValueError(
            f"{where} is a pair of {_kind(x)} and {_kind(y)}, expected tensors (x, y): convert with torch.as_tensor"
        )
    if not x.ndim or not y.ndim or len(x) != len(y):
        raise ValueError(
            f"{where} has x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}, expected a batch, one label "
            "for each input along the first axis: a single sample is x[None], y[None]"
        )
    return x, y


def input_of(batch: Any, where: str) -> Tensor:
    """The inputs of a batch ``(x, ...)``, ``x``, or a mapping that names them (``named``).

    Raises ValueError where x is no tensor with an axis of samples.
    """
    batch = unnamed(batch, where, labelled=False)
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor):
        how = f": {SEVERAL}" if _is_several(x) else ""
        raise ValueError(f"{where} expects batches of tensors (x, ...) or x, got {_kind(x)}{how}")
    if not x.ndim:
        raise ValueError(f"{where} expects batches of tensors (x, ...) or x, got a single number")
    return x


def _is_several(x: Any) -> bool:
    """Whether x is some tensors in place of one."""
    return isinstance(x, tuple | list | Mapping) and len(x) > 0 and all(isinstance(p, Tensor) for p in tree_leaves(x))


def _kind(value: Any) -> str:
    """What a value is, in a word or two."""
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
