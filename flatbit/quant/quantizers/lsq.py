"""LSQ: the learned step size, the baseline that the others are measured against.

Esser, McKinstry, Bablani, Appuswamy, Modha: Learned step size quantization, ICLR 2020.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from ..grid import CodeRange, twos_complement, unsigned
from ..learned import LearnedStepActivation, LearnedStepWeight
from ..rounding import Number
from ..statistics import mean_magnitude
from . import METHODS, Method

ONE_BIT = "at 1 bit two's complement has the levels {-1, 0}, which cannot carry a sign; uniq is symmetric at 1 bit"


@final
class LsqWeight(LearnedStepWeight):
    """Two's complement weights with a learned step s (LSQ, eqs 1-3).

    ``v = w/s``, ``w^q = s round(clip(v, -Qn, Qp))``, ``Qn = 2^(b-1)``, ``Qp = 2^(b-1) - 1``.
    Gradients: ``dw^q/dw = 1[-Qn < v < Qp]``; ``dw^q/ds = round(v) - v`` inside, -Qn below, Qp above,
    times ``1/sqrt(n Qp)``. Start: ``s = 2 E|w| / sqrt(Qp)``.
    """

    method = "lsq"
    supported_bits = range(2, 9)
    refusal = ONE_BIT

    def code_range(self, x: Tensor) -> CodeRange:
        return twos_complement(self.whole_bits())

    def unit_step(self, bits: int) -> float:
        return twos_complement(bits).high ** -0.5

    def start(self, w: Tensor) -> Tensor:
        return 2 * mean_magnitude(w, self.step_shape) / float(self.code_range(w).high) ** 0.5


@final
class LsqActivation(LearnedStepActivation):
    """Unsigned activations with a learned step s, ``Qn = 0``, ``Qp = 2^b - 1``; two's complement where signed.

    Start: ``s = 2 E|x| / sqrt(Qp)`` of the first batch. The gradient scale counts the features of one
    sample, as in the paper (other implementations count the batch too).
    """

    method = "lsq"
    signed_bits = range(2, 9)
    signed_refusal = ONE_BIT

    def signed_range(self, bits: Number) -> CodeRange:
        return twos_complement(bits)

    def unit_step(self, bits: int) -> float:
        return (self.signed_range(bits) if self.signed else unsigned(bits)).high ** -0.5

    def start(self, x: Tensor) -> Tensor:
        return 2 * mean_magnitude(x) / float(self.code_range(x).high) ** 0.5

    def sharing(self, x: Tensor) -> int:
        return x[0].numel()


METHODS.add("lsq", Method(weights=LsqWeight, activations=LsqActivation, paper="LSQ (Esser et al., ICLR 2020)"))
