"""The grid: the values a quantized tensor can take. Everything after training knows grids only.

    value = step * (code + offset),   code an integer in [low, high]

``offset`` 0 puts a level on zero (mid-tread; unsigned when ``low`` is 0), 1/2 puts zero half way
between two levels (mid-rise: the only symmetric grid with an even number of levels, and so the
only one that exists at 1 bit). LSQ+ alone uses other offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .rounding import Number, wide

Bits = Any
"""A whole number, or a 0-dim integer tensor where a graph is compiled."""


class CodeRange(NamedTuple):
    """The integers of a grid: ``offset``, lowest and highest code, as numbers or as 0-dim tensors."""

    offset: Number
    low: Number
    high: Number


def midrise(bits: Bits) -> CodeRange:
    """2^b levels, symmetric, none of them zero: +-1/2, +-3/2, ... steps (UNIQ, SAQ, DoReFa)."""
    half = 1 << bits >> 1
    return CodeRange(0.5, -half, half - 1)


def midtread(bits: Bits) -> CodeRange:
    """2^b - 1 levels, symmetric about a level at zero (SQWA, FAQ, DQ). One level only at 1 bit."""
    highest = (1 << bits >> 1) - 1
    return CodeRange(0.0, -highest, highest)


def unsigned(bits: Bits) -> CodeRange:
    """2^b levels from zero up: what follows a ReLU."""
    return CodeRange(0.0, 0, (1 << bits) - 1)


def twos_complement(bits: Bits) -> CodeRange:
    """2^b levels, one more below zero than above (LSQ weights). Only {-1, 0} at 1 bit."""
    half = 1 << bits >> 1
    return CodeRange(0.0, -half, half - 1)


def has_zero(offset: Number, low: Number, high: Number) -> bool:
    """Whether one of the levels is zero: none is on a mid-rise grid, nor where LSQ+'s offset lies between codes."""
    return float(offset).is_integer() and low <= -offset <= high


def choose(condition: Tensor | bool, yes: CodeRange, no: CodeRange) -> CodeRange:
    """``yes`` where the condition holds, else ``no``: by number, or by tensor in a compiled graph."""
    if isinstance(condition, bool):
        return yes if condition else no
    return CodeRange(*(torch.where(condition, a, b) for a, b in zip(yes, no, strict=True)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """The values one tensor can take: ``step * (code + offset)``, ``low <= code <= high``.

    Attributes:
        step: shape () or broadcastable to the tensor (one per output channel, repeated over the rows that share it
            where a transposed convolution has groups), positive, detached; float32 at least.
        offset: 0 or 1/2 (any number for LSQ+).
        low, high: the lowest and highest code.
    """

    step: Tensor
    offset: float
    low: int
    high: int

    def value(self, codes: Tensor) -> Tensor:
        """The values of integer ``codes``, of ``step``'s dtype."""
        return self.step * (codes.to(self.step.dtype) + self.offset)

    def codes(self, values: Tensor) -> Tensor:
        """The integer codes (int32) of values that lie on the grid. Raises ValueError if some do not."""
        codes = self._nearest(values)
        off = ~self._matches(values, codes)
        if off.any():
            example = values[off].flatten()[0].item()
            raise ValueError(
                f"{int(off.sum())} of {values.numel()} values are not on the grid {self} (such as {example:.6g}): "
                "take codes of what a quantizer returned"
            )
        return codes

    def holds(self, values: Tensor) -> Tensor:
        """Which values are levels exactly (a level rounded to the values' dtype where that is shorter): boolean."""
        return self._matches(values, self._nearest(values))

    def contains(self, values: Tensor) -> bool:
        """Whether every value is a level, as ``holds`` tells."""
        return bool(self.holds(values).all())

    @property
    def levels(self) -> Tensor:
        """All values in ascending order: shape (num_levels,), or (num_levels, *step.shape) per channel."""
        codes = torch.arange(self.low, self.high + 1, device=self.step.device)
        return self.value(codes.reshape(-1, *[1] * self.step.ndim)).reshape(-1, *self.step.shape)

    @property
    def num_levels(self) -> int:
        """How many values the grid has."""
        return self.high - self.low + 1

    @property
    def bits(self) -> int:
        """Bits that hold a code: ceil(log2(num_levels))."""
        return max(1, (self.num_levels - 1).bit_length())

    def __str__(self) -> str:
        per = "" if self.step.numel() == 1 else f" x{self.step.numel()}"
        offset = f" + {self.offset:g}" if self.offset else ""
        return f"{float(self.step.mean()):.4g}{per} * ([{self.low}..{self.high}]{offset})"

    def _nearest(self, values: Tensor) -> Tensor:
        codes = (wide(values) / self.step - self.offset).round()
        return codes.nan_to_num(0.0).clamp(self.low, self.high).to(torch.int32)

    def _matches(self, values: Tensor, codes: Tensor) -> Tensor:
        return values == self.value(codes).to(values.dtype)
