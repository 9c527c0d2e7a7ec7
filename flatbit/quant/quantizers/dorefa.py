"""DoReFa: weights through a tanh, activations clipped to [0, 1]; nothing learned in the quantizer.

Zhou, Wu, Ni, Zhou, Wen, Zou: DoReFa-Net: training low bitwidth convolutional neural networks with
low bitwidth gradients, 2016.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ..activation import ActivationQuantizer
from ..first_last import in_float
from ..grid import CodeRange, midrise, unsigned
from ..policy import POLICIES, Policy, base_policy
from ..quantizer import Quantizer
from ..rounding import SMALLEST_STEP, Number
from ..statistics import mean_magnitude
from . import METHODS, Method


@final
class DorefaWeight(Quantizer):
    """Mid-rise weights after a tanh (DoReFa, eqs 9-10); +-E|w| at 1 bit (eq. 8).

    b >= 2: ``t = tanh(w)``, ``w^q = 2 round(s (t/(2 max|t|) + 1/2))/s - 1``, ``s = 2^b - 1``;
    backward through tanh exactly, ``(1 - t^2)/max|t|`` with max|t| detached, and identity through the
    rounding. b = 1: ``w^q = E|w| sign(w)``, identity throughout, sign(0) = +1.
    """

    method = "dorefa"
    surrogate = "identity"

    def transform(self, x: Tensor) -> Tensor:
        t = x.tanh()
        t = t / t.detach().abs().max().clamp_min(torch.finfo(x.dtype).tiny)
        bits = self.whole_bits()
        return torch.where(bits == 1, x, t) if isinstance(bits, Tensor) else x if bits == 1 else t

    def code_range(self, x: Tensor) -> CodeRange:
        return midrise(self.whole_bits())

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        bits = self.whole_bits()
        magnitude = mean_magnitude(x).clamp_min(SMALLEST_STEP)
        fixed = torch.ones_like(magnitude)
        top = (
            torch.where(bits == 1, magnitude, fixed) if isinstance(bits, Tensor) else magnitude if bits == 1 else fixed
        )
        return top * 2 / ((1 << bits) - 1)

    def observe_(self, x: Tensor) -> None:
        """Nothing to set: the levels are fixed, or computed from the weight at 1 bit."""


@final
class DorefaActivation(ActivationQuantizer):
    """Unsigned activations in [0, 1] (DoReFa, eq. 11): ``y^q = round(s clip(x, 0, 1))/s``.

    Gradient: ``dy^q/dx = 1[0 < x < 1]``. Signed inputs are refused: the method has no levels for them.
    """

    method = "dorefa"
    surrogate = "clip"
    signed_bits = range(0)
    signed_refusal = "its levels lie in [0, 1]"

    def signed_range(self, bits: Number) -> CodeRange:
        return unsigned(bits)  # never in use: observe_ refuses signed inputs

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        bits = self.whole_bits()
        return torch.ones((), dtype=x.dtype, device=x.device) / ((1 << bits) - 1)

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(())  # never asked: the range is fixed


def convention(weights: int, activations: int) -> Policy:
    """DoReFa: first and last layer float."""
    return base_policy("dorefa", weights, activations, in_float())


METHODS.add(
    "dorefa", Method(weights=DorefaWeight, activations=DorefaActivation, paper="DoReFa-Net (Zhou et al., 2016)")
)
POLICIES.add("dorefa", convention)
