"""Finite values: whether all of some tensors are, in one look at a device, and how many of one are not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all floating values are finite, in one look however many tensors there are.

    Their largest magnitude is then finite, and it keeps NaN.
    """
    floating = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return math.isfinite(torch.nn.utils.get_total_norm(floating, math.inf))


def bad_values(x: Tensor) -> str:
    """``3 of 432 NaN or infinite``; empty where there are none, and of whole numbers."""
    if not x.is_floating_point() or bool(x.isfinite().all()):
        return ""
    return f"{int((~x.isfinite()).sum()):,} of {x.numel():,} NaN or infinite"
