"""Statistics that quantizers start from: spread, magnitude and percentiles, per step.

``step_shape`` is () for one figure per tensor, or a shape that broadcasts to x with one entry per
output channel: the figure is then taken over everything else. It is 0 for a dead (all zero) channel
or tensor, and a step made of it is held at ``SMALLEST_STEP``: what is zero then stays about zero,
also on a mid-rise grid, which has no level there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .rounding import wide


def spread(x: Tensor, step_shape: tuple[int, ...] = ()) -> Tensor:
    """Unbiased standard deviation per step; the root mean square where that is 0 or has one sample."""
    x = wide(x.detach())
    rms = group_mean(x.square(), step_shape).sqrt()
    count = x.numel() // max(rms.numel(), 1)
    if count > 1:
        variance = group_mean((x - group_mean(x, step_shape)).square(), step_shape) * (count / (count - 1))
        rms = torch.where(variance > 0, variance.sqrt(), rms)
    return rms


def mean_magnitude(x: Tensor, step_shape: tuple[int, ...] = ()) -> Tensor:
    """E|x| per step."""
    return group_mean(wide(x.detach()).abs(), step_shape)


def percentile(x: Tensor, percent: float) -> Tensor:
    """The smallest value that at least ``percent`` of all values do not exceed. Shape ()."""
    flat = x.detach().flatten()
    rank = math.ceil(percent * flat.numel() / 100 - 1e-9 * flat.numel())  # 99.9 % of 1000 is 999, not 999.0000001
    return flat.kthvalue(min(max(rank, 1), flat.numel())).values


def group_mean(x: Tensor, step_shape: tuple[int, ...] = ()) -> Tensor:
    """E x per step."""
    if not step_shape:
        return x.mean()
    return x.sum_to_size(step_shape) * (math.prod(step_shape) / x.numel())
