"""Fixed point: a power-of-two step that is given, not found. FAQ keeps BatchNorm and biases in it."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from ..grid import CodeRange, midtread
from ..quantizer import Quantizer
from ..site import Site
from . import METHODS, Method
from .faq import ONE_BIT


@final
class FixedPoint(Quantizer):
    """A number in fixed point: step ``2^l`` with l given. FAQ's BatchNorm scales and biases.

    ``x^q = max(min(round(x 2^-l), K), -K) 2^l``, ``K = 2^(b-1) - 1``; backward identity. FAQ takes 8
    bits and l = -4 for what multiplies, 32 bits and l = -16 for what is added: l = -b/2 unless ``exponent`` says.

    Deliberate difference: above 25 bits K is the largest integer below ``2^(b-1)`` that float32
    holds (``2^31 - 128`` at 32 bits), so that the largest codes survive the way to a value and back.
    """

    method = "fixed_point"
    surrogate = "identity"
    supported_bits = range(2, 33)
    refusal = ONE_BIT

    def __init__(self, bits: int, site: Site, granularity: str = "tensor", *, exponent: int | None = None) -> None:
        super().__init__(bits, site, granularity)
        self.exponent = exponent

    def code_range(self, x: Tensor) -> CodeRange:
        highest = midtread(self.whole_bits()).high
        highest = highest & ~(highest >> 24)  # b - 1 ones, of which float32 holds 24
        return CodeRange(0.0, -highest, highest)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        exponent = -self.whole_bits() // 2 if self.exponent is None else self.exponent
        if isinstance(exponent, Tensor):
            return torch.ldexp(x.new_ones(()), exponent)
        return torch.full((), math.ldexp(1.0, exponent), dtype=x.dtype, device=x.device)

    def observe_(self, x: Tensor) -> None:
        """Nothing to set: the step is given."""


METHODS.add("fixed_point", Method(weights=FixedPoint, paper="FAQ (McKinstry et al., 2018)", public=False))
