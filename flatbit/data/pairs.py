"""A batch of a caller's as tensors: ``(x, y)``, or x alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .batches import Batch


def pair_of(batch: Any, where: str) -> Batch:
    """The two tensors of a batch ``(x, y)``.

    Args:
        batch: what the caller's iterable gave.
        where: whose and which batch it is, as errors say.

    Raises:
        ValueError: anything but a pair of tensors with one label for each input.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"{where} is a {_kind(batch)}, expected a pair of tensors (x, y): make one of it")
    x, y = batch
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
    """The inputs of a batch ``(x, ...)`` or ``x``. Raises ValueError where x is no tensor with an axis of samples."""
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor):
        raise ValueError(f"{where} expects batches of tensors (x, ...) or x, got {_kind(x)}")
    if not x.ndim:
        raise ValueError(f"{where} expects batches of tensors (x, ...) or x, got a single number")
    return x


def _kind(value: Any) -> str:
    """What a value is, in a word or two."""
    return type(value).__name__ + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
