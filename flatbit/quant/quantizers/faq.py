"""FAQ: power-of-two steps, calibrated once, nothing learned in the quantizer.

McKinstry, Esser, Appuswamy, Bablani, Arthur, Yildiz, Modha: Discovering low-precision networks
close to full-precision networks for efficient inference, 2018-2019.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from ..activation import ActivationQuantizer
from ..first_last import at_8_bits
from ..grid import CodeRange, midtread
from ..optimal_step import power_of_two_width
from ..policy import POLICIES, Policy, base_policy
from ..quantizer import Quantizer
from ..rounding import Number
from ..site import Site
from ..spec import TensorSpec
from ..statistics import percentile, spread
from . import METHODS, Method

PAPER_WIDTHS = {4: 4.12}
ONE_BIT = "the symmetric grid has the single level 0"


@final
class FaqWeight(Quantizer):
    """Mid-tread weights whose power-of-two step follows the weights (FAQ, eqs 1-2).

    ``w^q = max(min(round(w 2^-l), K), -K) 2^l``, ``K = 2^(b-1) - 1``, with
    ``l = ceil(log2(c std(w)/(2^b - 1)))`` at every forward. Backward: identity, without a mask.

    c is 4.12 at 4 bits, the only constant that the paper prints. Elsewhere it is the one of least
    error, averaged over where std falls between powers of two and solved exactly: for a Gaussian up to
    3 bits (2.524 at 2), for a Laplacian above 4 (10.916 at 8).

    Deliberate difference: Gaussian constants at every width are the plain reading, but above 4 bits
    clipping outweighs rounding, and trained weights have longer tails than a Gaussian: 6.501 at 8 bits
    clips at 3.2 std and costs a public CIFAR-10 ResNet-20 of 91.73 % 1.1 points before fine-tuning
    (90.61), 10.916 nothing (91.78). A search in steps of 2 % finds 2.54, 4.04 and 6.41 for a Gaussian
    at 2, 4 and 8 bits, exactly 2.524, 3.962 and 6.501: it is that flat.

    The paper does not say whether c std is the whole width of the clip range or each half: whole is
    read here, because it loses 4 to 6 dB less; ``clip_is_half_width=True`` is the other reading.
    """

    method = "faq"
    surrogate = "identity"
    supported_bits = range(2, 9)
    refusal = ONE_BIT

    def __init__(self, bits: int, site: Site, granularity: str = "tensor", *, clip_is_half_width: bool = False) -> None:
        super().__init__(bits, site, granularity)
        self.halves = 2 if clip_is_half_width else 1
        widths = [PAPER_WIDTHS.get(b) or power_of_two_width(b, "gaussian" if b < 4 else "laplace") for b in range(2, 9)]
        self.unit_steps = [self.halves * c / (2**b - 1) for b, c in enumerate(widths, start=2)]

    def code_range(self, x: Tensor) -> CodeRange:
        return midtread(self.whole_bits())

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return next_power_of_two(self._unit(x) * spread(x).clamp_min(1e-12))

    def observe_(self, x: Tensor) -> None:
        """Nothing to set: the step is computed from the weight at every forward."""

    def _unit(self, x: Tensor) -> Tensor:
        """``c/(2^b - 1)`` at the present width, shape ()."""
        bits = self.whole_bits()
        if not isinstance(bits, Tensor):
            return torch.full((), self.unit_steps[bits - 2], dtype=x.dtype, device=x.device)
        table = [torch.full((), unit, dtype=x.dtype, device=x.device) for unit in self.unit_steps]
        return torch.stack(table).index_select(0, (bits - 2).reshape(1)).squeeze(0)


@final
class FaqActivation(ActivationQuantizer):
    """Unsigned activations with a power-of-two step, calibrated once and then fixed (FAQ, eq. 1).

    ``y^q = min(round(y 2^-l), 2^b - 1) 2^l``; where signed, the weight's levels. Backward: masked to
    ``0 < y < (2^b - 1) 2^l``. Start: the largest p-th percentile over 5 batches through the float
    network, p = 99.99 above 4 bits and 99.9 up to 4; ``y_max`` is the next power of two and
    ``l = log2(y_max) - b`` (``b - 1`` where signed, of |y|). ``calibrate=False`` is the paper's
    control without calibration: ``y_max = 2^(b/2) - 1``.

    Attributes:
        step: buffer 2^l, shape ().
    """

    method = "faq"
    surrogate = "clip"
    calibration_batches = 5
    range_name = "step"
    signed_bits = range(2, 9)
    signed_refusal = ONE_BIT
    step: Tensor

    def __init__(
        self,
        bits: int,
        site: Site,
        granularity: str = "tensor",
        *,
        signed: bool | None = None,
        calibrate: bool = True,
    ) -> None:
        super().__init__(bits, site, granularity, signed=signed)
        self.add_state("step", learned=False)
        self.reads_data = calibrate

    def signed_range(self, bits: Number) -> CodeRange:
        return midtread(bits)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return self.current("step")

    def unit_step(self, bits: int) -> float:
        return 0.5**bits if self.reads_data else control_step(bits)  # y_max stays

    def start(self, x: Tensor) -> Tensor:
        bits, signed = self.bit_width(), bool(self.signed)
        if not self.reads_data:
            return x.new_tensor(control_step(bits))
        largest = percentile(x.abs() if signed else x, 99.99 if bits > 4 else 99.9)
        if largest <= 0:
            return largest.new_zeros(())
        return next_power_of_two(largest.float()) * math.ldexp(1.0, signed - bits)


def control_step(bits: int) -> float:
    """The step of the control without calibration: the next power of two from ``(2^(b/2) - 1)/(2^b - 1)``."""
    return 2.0 ** math.ceil(math.log2((2 ** (bits / 2) - 1) / (2**bits - 1)))


def next_power_of_two(x: Tensor) -> Tensor:
    """``2^ceil(log2 x)``, exact: the exponent is read from the number, not from a logarithm."""
    mantissa, exponent = torch.frexp(x)  # x = mantissa 2^exponent, 1/2 <= mantissa < 1
    return torch.ldexp(torch.ones_like(x), torch.where(mantissa == 0.5, exponent - 1, exponent))


def convention(weights: int, activations: int) -> Policy:
    """FAQ: first and last layer at 8 bits, each ReLU's output quantized once, batch norm and biases in fixed point."""
    return base_policy(
        "faq",
        weights,
        activations,
        at_8_bits(weights, activations, placement="input"),
        placement="output",
        norm=TensorSpec(method="fixed_point", bits=8, options={"exponent": -4}),
        bias=TensorSpec(method="fixed_point", bits=32, options={"exponent": -16}),
    )


METHODS.add("faq", Method(weights=FaqWeight, activations=FaqActivation, paper="FAQ (McKinstry et al., 2018)"))
POLICIES.add("faq", convention)
