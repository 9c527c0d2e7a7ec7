"""SQWA's weights: symmetric mid-tread levels at the step of least squared error, then kept.

Shin, Park, Kim, Sung: SQWA: stochastic quantized weight averaging for improving the generalization
capability of low-precision deep neural networks, 2020; the step is Hwang and Sung's (SiPS 2014).
HOL quantizes weights the same way.
"""

from __future__ import annotations

import math
from typing import Literal, final

import torch
from torch import Tensor

from ..first_last import in_float
from ..grid import CodeRange, choose, midrise, midtread
from ..optimal_step import midrise_step, midtread_step
from ..options import one_of
from ..policy import POLICIES, Policy, base_policy
from ..quantizer import Quantizer
from ..rounding import SMALLEST_STEP
from ..site import Site
from ..statistics import spread
from . import METHODS, Method

STARTS = 40  # of the search for the step, at once


@final
class SqwaWeight(Quantizer):
    """Mid-tread weights with a fixed step D (SQWA, eq. 1).

    ``w^q = sign(w) D min(floor(|w|/D + 1/2), (M - 1)/2)``, ``M = 2^b - 1``; halves away from zero.
    Backward: the gradient at w^q goes to w unchanged (eqs 5-7). Start: the D of least squared error,
    by alternation; it has no gradient and stays while training, so that captured models share a
    grid and their average lies on the grid ``D/n``.

    Deliberate differences: at 1 bit the printed formula leaves the single level 0, so the levels are
    +-D with ``D = mean|w|`` and sign(0) = +1, the L2 optimum. ``grid="midrise"`` is HOL's
    "4-level 2-bit" grid for ImageNet, which the paper names without a formula: D by the same
    alternation.

    Attributes:
        step: buffer, shape (): D, or 2D between the two levels at 1 bit.
    """

    method = "sqwa"
    surrogate = "identity"
    ties = "away"
    step: Tensor

    def __init__(
        self, bits: int, site: Site, granularity: str = "tensor", *, grid: Literal["midtread", "midrise"] = "midtread"
    ) -> None:
        super().__init__(bits, site, granularity)
        self.add_state("step", learned=False)
        self.kind = one_of(site, "grid", grid, ("midtread", "midrise"))

    def code_range(self, x: Tensor) -> CodeRange:
        bits = self.whole_bits()
        if self.kind == "midrise":
            return midrise(bits)
        return choose(bits == 1, midrise(bits), midtread(bits))

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return self.current("step")

    def observe_(self, x: Tensor) -> None:
        bits, codes = self.bit_width(), self.code_range(x)
        offset = float(codes.offset)
        unit = midrise_step(bits) if offset else midtread_step(bits)
        self.set_state_("step", least_squares_step(x, unit * spread(x), offset, int(codes.high)))


def least_squares_step(w: Tensor, start: Tensor, offset: float, high: int) -> Tensor:
    """The D that minimises ``sum (w - w^q)^2`` on a symmetric grid, by alternation. Shape (), float64 inside.

    Alternates nearest levels ``q`` with ``D = sum(w q)/sum(q^2)`` until D moves by less than 1e-6, or
    200 times. It stops in local minima, which lie about ``1/high`` apart relatively, so it runs from 40
    starts at once and keeps the best. ``SMALLEST_STEP`` for weights that are all zero.

    The magnitudes are sorted once: a cell's count and sum are then differences of running sums.
    """
    magnitudes = w.detach().double().abs().flatten().sort().values
    running = torch.cat([magnitudes.new_zeros(1), magnitudes.cumsum(0)])
    q = torch.arange(0.5 if offset else 0.0, high + offset + 0.5, dtype=torch.float64, device=w.device)

    def nearest(step: Tensor) -> tuple[Tensor, Tensor]:
        """``sum(w q)`` and ``sum(q^2)`` over the weights, each with its nearest level ``q``; shapes (starts,)."""
        ends = torch.tensor([0, magnitudes.numel()], device=w.device).expand(len(step), 2)
        inner = torch.searchsorted(magnitudes, (q[1:] - 0.5) * step[:, None])
        edges = torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)
        return (q * running[edges].diff()).sum(1), (q.square() * edges.diff()).sum(1)

    def least(step: Tensor, count: int) -> Tensor:
        """The ``count`` steps of least error, the least first; a thousand at a time, for memory."""
        parts = [(part, *nearest(part)) for part in step.split(1024)]
        error = torch.cat([part.square() * squares - 2 * part * products for part, products, squares in parts])
        return step[error.argsort(stable=True)[:count]]  # sum w^2 is the same for all

    step = _trial_steps(start.double(), float(magnitudes[-1]) / (high + offset), high)
    step = least(step, STARTS) if len(step) > STARTS else step
    for _ in range(200):
        products, squares = nearest(step)
        previous, step = step, torch.where(squares > 0, products / squares, step / 2)
        if bool(((step - previous).abs() <= 1e-6 * previous).all()):
            break
    return least(step, 1)[0].clamp_min(SMALLEST_STEP).to(start.dtype)


def _trial_steps(start: Tensor, top: float, high: int) -> Tensor:
    """Where alternation may start: ``start`` and 39 steps from a quarter to twice of it, up to 3 bits.

    Beyond, a grid as dense as the local minima, 32 steps for each of them, to just above ``top``, where
    the highest level is the largest magnitude, if that is further up (long tails).
    """
    last, count = 1.0, STARTS - 1
    if high > 3:
        last = max(1.0, math.log2(max(top / max(float(start), SMALLEST_STEP), 1.0)) + 0.125)
        count = round((last + 2) * 32 * max(high, 32))
    exponents = torch.linspace(-2, last, count, device=start.device)
    return start * torch.cat([start.new_ones(1), start.new_tensor(2.0) ** exponents])


def float_first_last(weights: int, activations: int) -> Policy:
    """SQWA: first and last layer float, as the works it compares with; activations float in the paper."""
    return base_policy("sqwa", weights, activations, in_float())


def all_layers(weights: int, activations: int) -> Policy:
    """SQWA with every layer at b bits, which the paper does not exclude."""
    return base_policy("sqwa", weights, activations)


METHODS.add("sqwa", Method(weights=SqwaWeight, paper="SQWA (Shin et al., 2020)"))
POLICIES.add("sqwa", float_first_last)
POLICIES.add("sqwa-all", all_layers)
