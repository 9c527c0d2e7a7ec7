"""Normalization of batches: from what is stored to what a network reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from .arguments import per_channel


@final
class Normalize:
    """``(x - mean) / std`` per channel, in float32; whole numbers are pixels and stand for x / 255.

    Args:
        mean, std: per channel, of pixels in [0, 1] or of float inputs as they are.

    Raises:
        ValueError: another number of means than of stds, one that is not finite, or a std that is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = per_channel("mean", mean), per_channel("std", std)
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean {self.mean} and std {self.std}: expected one of each per channel")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std {self.std}: expected positive numbers")
        self._constants = lru_cache(maxsize=8)(self._make_constants)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalized copy of x (N, C, ...), uint8 or float; float32, images channels-last in memory."""
        mean, std = self._constants(x.shape[1:], x.device, not x.is_floating_point())
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x.to(torch.float32, copy=True).sub_(mean).div_(std)

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError where inputs of a shape (C, ...) have other channels."""
        if shape[0] != len(self.mean):
            raise ValueError(f"inputs have {shape[0]} channels, mean and std are of {len(self.mean)}")

    def _make_constants(self, shape: torch.Size, device: torch.device, pixels: bool) -> tuple[Tensor, Tensor]:
        """Mean and std as whole images: a sum over three innermost channels alone would run in loops of three."""
        self.check(shape)
        scale = 255 if pixels else 1
        parts = []
        for values in (self.mean, self.std):
            column = scale * torch.tensor(values, dtype=torch.float32)
            full = column.reshape(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape).to(device)
            layout = torch.channels_last if len(shape) == 3 else torch.contiguous_format
            parts.append(full.contiguous(memory_format=layout))
        return parts[0], parts[1]
