"""DQ: step and range both learned, so that the bit-width follows from training.

Uhlich, Mauch, Cardinaux, Yoshiyama, Garcia, Tiedemann, Kemp, Nakamura: Mixed precision DNNs: all
you need is a good parametrization, ICLR 2020 (parametrization U3, power-of-two steps).
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from ..activation import ActivationQuantizer
from ..grid import CodeRange, choose
from ..quantizer import MAX_BITS, Quantizer
from ..rounding import Number, learned_step, straight_through
from ..site import Site
from . import METHODS, Method
from .faq import ONE_BIT, next_power_of_two

ACTIVATION_STEP = 2.0**-3
MOST_SIGNED = 2 ** (MAX_BITS - 1) - 1
MOST_UNSIGNED = 2**MAX_BITS - 1


@final
class DqWeight(Quantizer):
    """Mid-tread weights with a learned step d and range q (DQ, U3).

    ``d' = 2^round(log2 d)``, ``q' = d' round(q/d')``,
    ``w^q = sign(w) d' floor(min(|w|, q')/d' + 1/2)``. Gradients, straight through d' and q':
    ``d: (w^q - w)/d' 1[|w| <= q']``, ``q: sign(w) 1[|w| > q']``, ``w: 1[|w| <= q']``: the step in use,
    d', divides, where the paper prints d.

    ``bits`` says where training starts; the width in use, ``bit_width()``, is
    ``ceil(log2(q'/d' + 1) + 1)``. Start: ``d = 2^ceil(log2(max|w|/(2^(b-1) - 1)))``,
    ``q = d (2^(b-1) - 1)``.

    Attributes:
        step, reach: parameters d and q, shape ().
    """

    method = "dq"
    surrogate = "residual"
    ties = "away"
    learned_ranges = ("step", "reach")
    supported_bits = range(2, 9)
    refusal = ONE_BIT
    step: nn.Parameter
    reach: nn.Parameter

    def __init__(self, bits: int, site: Site, granularity: str = "tensor") -> None:
        super().__init__(bits, site, granularity)
        self.add_state("step", learned=True)
        self.add_state("reach", learned=True)

    def limit(self, x: Tensor) -> Tensor:
        limit = learned_range(self.current("step"), self.current("reach"), MOST_SIGNED)
        return torch.clamp(x, -limit, limit)

    def code_range(self, x: Tensor) -> CodeRange:
        highest = highest_code(self.current("step"), self.current("reach"), MOST_SIGNED)
        return CodeRange(0.0, -highest, highest)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return nearest_power_of_two(self.current("step"))

    def observe_(self, x: Tensor) -> None:
        highest = 2 ** (self.stated_bits - 1) - 1
        step = next_power_of_two(x.detach().abs().max() / highest)
        self.set_state_("step", step)
        self.set_state_("reach", step * highest)

    def bit_width(self) -> int:
        if not self.calibrated:
            return self.stated_bits
        highest = int(highest_code(self.current("step"), self.current("reach"), MOST_SIGNED))
        return math.ceil(math.log2(highest + 1) + 1)

    def width(self) -> Tensor:
        return learned_width(self.current("step"), self.current("reach"), MOST_SIGNED) + 1

    @torch.no_grad()
    def assign_(self, bits: int) -> None:
        """Take the power-of-two step at which the range q has that many bits."""
        super().assign_(bits)
        respaced_(self, 2 ** (bits - 1) - 1)


@final
class DqActivation(ActivationQuantizer):
    """Unsigned activations with a learned step d and range q (DQ, U3); the weight's levels where signed.

    Gradients as the weight's, with ``0 <= x`` below. The width in use is ``ceil(log2(q'/d' + 1))``
    (one more where signed). Start (SAQ, appendix B): ``d = 2^-3``, ``q = d (2^b - 1)``, or
    ``d (2^(b-1) - 1)`` where signed.

    Attributes:
        step, reach: parameters d and q, shape ().
    """

    method = "dq"
    surrogate = "residual"
    ties = "away"
    learned_ranges = ("step", "reach")
    range_name = "reach"
    signed_bits = range(2, 9)
    signed_refusal = ONE_BIT
    step: nn.Parameter
    reach: nn.Parameter

    def __init__(self, bits: int, site: Site, granularity: str = "tensor", *, signed: bool | None = None) -> None:
        super().__init__(bits, site, granularity, signed=signed)
        self.add_state("step", learned=True)
        self.add_state("reach", learned=True)

    def signed_range(self, bits: Number) -> CodeRange:
        highest = highest_code(self.current("step"), self.current("reach"), MOST_SIGNED)
        return CodeRange(0.0, -highest, highest)

    def code_range(self, x: Tensor) -> CodeRange:
        highest = highest_code(self.current("step"), self.current("reach"), MOST_UNSIGNED)
        return choose(self.is_signed(), self.signed_range(self.whole_bits()), CodeRange(0.0, 0, highest))

    def limit(self, x: Tensor) -> Tensor:
        limit = learned_range(self.current("step"), self.current("reach"), self._most())
        return torch.clamp(x, -limit * self.is_signed(), limit)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return nearest_power_of_two(self.current("step"))

    def start(self, x: Tensor) -> Tensor:
        self.set_state_("step", x.new_tensor(ACTIVATION_STEP))
        return x.new_tensor(ACTIVATION_STEP * self._highest(self.stated_bits))

    def bit_width(self) -> int:
        if not self.calibrated:
            return self.stated_bits
        highest = int(highest_code(self.current("step"), self.current("reach"), self._most()))
        return math.ceil(math.log2(highest + 1)) + bool(self.is_signed())

    def width(self) -> Tensor:
        return learned_width(self.current("step"), self.current("reach"), self._most()) + (self.signed > 0)

    @torch.no_grad()
    def assign_(self, bits: int) -> None:
        """Take the power-of-two step at which the range q has that many bits."""
        super().assign_(bits)
        respaced_(self, self._highest(bits))

    def _most(self) -> Tensor:
        return torch.where(self.signed > 0, MOST_SIGNED, MOST_UNSIGNED)

    def _highest(self, bits: int) -> int:
        return 2 ** (bits - bool(self.signed > 0)) - 1


def respaced_(quantizer: Quantizer, highest: int) -> None:
    """Give a DQ quantizer the step ``d = 2^round(log2(q/highest))`` and the range ``q = d highest``, in place.

    Not one that has learned that width, has a row for it, or was not calibrated and so has no range.
    """
    if quantizer.site.candidates or not quantizer.calibrated or quantizer.bit_width() == quantizer.stated_bits:
        return
    step = nearest_power_of_two(quantizer.current("reach") / highest)
    quantizer.set_state_("step", step)
    quantizer.set_state_("reach", step * highest)


def nearest_power_of_two(step: Tensor) -> Tensor:
    """``d' = 2^round(log2 d)``, exact, with derivative 1."""
    step = learned_step(step)
    with torch.no_grad():
        power = torch.ldexp(torch.ones_like(step), step.log2().round().int())
    return straight_through(power, step)


def highest_code(step: Tensor, reach: Tensor, most: Tensor | int) -> Tensor:
    """``q'/d'``, an integer in [1, most] as a float tensor without gradient."""
    with torch.no_grad():
        return (learned_step(reach) / nearest_power_of_two(step)).round().clamp_min(1).clamp_max(most)


def learned_range(step: Tensor, reach: Tensor, most: Tensor | int) -> Tensor:
    """``q' = d' round(q/d')``, with derivative 1 to q and none to d."""
    value = nearest_power_of_two(step).detach() * highest_code(step, reach, most)
    return straight_through(value, learned_step(reach))


def learned_width(step: Tensor, reach: Tensor, most: Tensor | int) -> Tensor:
    """``ceil(log2(q'/d' + 1))``, straight through the rounding up: its derivatives are those of ``log2(q'/d' + 1)``."""
    width = (learned_range(step, reach, most) / nearest_power_of_two(step) + 1).log2()
    return straight_through(width.detach().ceil(), width)


METHODS.add("dq", Method(weights=DqWeight, activations=DqActivation, paper="DQ (Uhlich et al., ICLR 2020)"))
