"""Statistics that quantizers start from: spread, magnitude and percentiles, per step.

``step_shape`` is () for one figure per tensor, or a shape that broadcasts to x with one entry per
output channel: the figure is then taken over everything else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spread(x: Tensor, step_shape: tuple[int, ...] = ()) -> Tensor:
    """Unbiased standard deviation per step; the root mean square where that is 0 or has one sample.

    Channels that are all zero take the mean spread of the others, so that no step is zero.
    """
    x = _wide(x)
    rms = group_mean(x.square(), step_shape).sqrt()
    count = x.numel() // max(rms.numel(), 1)
    if count > 1:
        variance = group_mean((x - group_mean(x, step_shape)).square(), step_shape) * (count / (count - 1))
        rms = torch.where(variance > 0, variance.sqrt(), rms)
    return fill_zeros(rms)


def mean_magnitude(x: Tensor, step_shape: tuple[int, ...] = ()) -> Tensor:
    """E|x| per step; channels that are all zero take the mean of the others."""
    return fill_zeros(group_mean(_wide(x).abs(), step_shape))


def percentile(x: Tensor, percent: float) -> Tensor:
    """The smallest value that at least ``percent`` of all values do not exceed. Shape ()."""
    flat = x.detach().flatten()
    rank = min(max(math.ceil(percent / 100 * flat.numel()), 1), flat.numel())
    return flat.kthvalue(rank).values


def fill_zeros(figures: Tensor) -> Tensor:
    """Replace zeros by the mean of the non-zero entries (all zero: unchanged)."""
    positive = figures > 0
    if not positive.any():
        return figures
    return torch.where(positive, figures, figures[positive].mean())


def group_mean(x: Tensor, step_shape: tuple[int, ...] = ()) -> Tensor:
    """E x per step."""
    if not step_shape:
        return x.mean()
    return x.sum_to_size(step_shape) * (math.prod(step_shape) / x.numel())


def _wide(x: Tensor) -> Tensor:
    x = x.detach()
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
