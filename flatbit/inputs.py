"""Inputs of batches: ``(x, ...)`` or x alone, wherever labels play no part."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def input_of(batch: Any, who: str) -> Tensor:
    """The x of a batch ``(x, ...)``, or x itself. Raises ValueError, naming ``who`` reads it, where it is no tensor."""
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor):
        raise ValueError(f"{who} expects batches of tensors (x, ...) or x, got {type(x).__name__}")
    return x
