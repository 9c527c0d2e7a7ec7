"""UNIQ: one symmetric quantizer from 1 bit up, with a learned step that starts MSE-optimal.

Pham, Abraham, Chung: Training multi-bit quantized and binarized networks with a learnable
symmetric quantizer, IEEE Access 2021.
"""

from __future__ import annotations

from typing import Any, Literal, final

from torch import Tensor

from ..first_last import FIRST_LAST, at_8_bits, in_float
from ..grid import CodeRange, midrise
from ..learned import LearnedStepActivation, LearnedStepWeight
from ..optimal_step import Density, midrise_step, unsigned_step
from ..options import one_of_or_positive
from ..policy import POLICIES, Policy, Rule, base_policy
from ..rounding import Number
from ..site import Site
from ..statistics import mean_magnitude, spread
from . import METHODS, Method

Start = float | Literal["optimal", "laplace", "lsq"]
DENSITIES: dict[Any, Density] = {"optimal": "gaussian", "laplace": "laplace"}


@final
class UniqWeight(LearnedStepWeight):
    """Mid-rise weights with a learned step D (UNIQ, eqs 3-6).

    ``w^q = D round(clip((w + al)/D, 0, N - 1)) - al``, ``al = D (N - 1)/2``, ``N = 2^b``.
    Gradients: ``dw^q/dw = 1[|w| < al]``; ``dw^q/dD = (w^q - w)/D`` inside, ``sign(w)(N - 1)/2``
    outside. Start: ``D = D_unit std(w)``, the step that loses the least mean squared error on a
    Gaussian, or with ``start="laplace"`` on a Laplacian; ``start="lsq"`` or a number for the starts of
    the paper's Table 5.

    Deliberate differences: the paper's eq. 6 prints ``sign(w) al`` for the outer gradient, too
    large by the factor D; and the gradient scale ``1/sqrt(n max(2^(b-1) - 1, 1))`` is the authors'
    code's, not the paper's: ``gradient_scale=False`` is the paper as printed.
    """

    method = "uniq"
    ties = "even_from_low"

    def __init__(
        self,
        bits: int,
        site: Site,
        granularity: str = "tensor",
        *,
        start: Start = "optimal",
        gradient_scale: bool = True,
    ) -> None:
        super().__init__(bits, site, granularity, gradient_scale=gradient_scale)
        self.start_rule: Start = one_of_or_positive(site, "start", start, (*DENSITIES, "lsq"))

    def code_range(self, x: Tensor) -> CodeRange:
        return midrise(self.whole_bits())

    def unit_step(self, bits: int) -> float:
        return midrise_step(bits, DENSITIES.get(self.start_rule, "gaussian"))

    def start(self, w: Tensor) -> Tensor:
        shape = self.step_shape
        if density := DENSITIES.get(self.start_rule):
            return midrise_step(self.bit_width(), density) * spread(w, shape)
        return _table5_start(self.start_rule, mean_magnitude(w, shape), self.code_range(w))


@final
class UniqActivation(LearnedStepActivation):
    """Unsigned activations with a learned step D (UNIQ, eqs 1-2); UNIQ's weight form where signed.

    ``y^q = D round(clip(x/D, 0, N - 1))``. Gradients: ``dy^q/dx = 1[0 < x < (N - 1) D]``;
    ``dy^q/dD = (y^q - x)/D`` inside, N - 1 above, 0 below. Start: ``D_unit sqrt(2 E[x^2])`` of each
    calibration batch, the largest kept: for a rectified Gaussian the root is its standard deviation
    before the ReLU. ``start="laplace"`` takes the Laplacian's D_unit, the others are the weights'. The
    gradient scale counts all elements, the batch included, as the authors' code.

    Deliberate difference: the paper gives images the weight quantizer; so does calibration here
    for every input with negative values, starting from ``sqrt(E[x^2])``.
    """

    method = "uniq"
    ties = "even_from_low"
    calibration_batches = 100
    observes_quantized = True

    def __init__(
        self,
        bits: int,
        site: Site,
        granularity: str = "tensor",
        *,
        start: Start = "optimal",
        signed: bool | None = None,
        gradient_scale: bool = True,
    ) -> None:
        super().__init__(bits, site, granularity, signed=signed, gradient_scale=gradient_scale)
        self.start_rule: Start = one_of_or_positive(site, "start", start, (*DENSITIES, "lsq"))

    def signed_range(self, bits: Number) -> CodeRange:
        return midrise(bits)

    def unit_step(self, bits: int) -> float:
        density = DENSITIES.get(self.start_rule, "gaussian")
        return midrise_step(bits, density) if self.signed else unsigned_step(bits, density)

    def start(self, x: Tensor) -> Tensor:
        density = DENSITIES.get(self.start_rule)
        if density is None:
            return _table5_start(self.start_rule, mean_magnitude(x), self.code_range(x))
        rms, bits = x.float().square().mean().sqrt(), self.bit_width()
        return midrise_step(bits, density) * rms if self.signed else unsigned_step(bits, density) * 2**0.5 * rms

    def sharing(self, x: Tensor) -> int:
        return x.numel()


def _table5_start(rule: Start, magnitude: Tensor, codes: CodeRange) -> Tensor:
    """A constant, or LSQ's ``2 E|x| / sqrt(highest code)`` (Table 5's other starts)."""
    if rule == "lsq":
        return 2 * magnitude / max(float(codes.high), 1.0) ** 0.5
    return magnitude.new_full(magnitude.shape, float(rule))


def per_tensor(weights: int, activations: int) -> Policy:
    """UNIQ: first and last layer at 8 bits per tensor from 2 bits up; at 1 bit they and shortcut convolutions float."""
    return base_policy("uniq", weights, activations, _first_last(weights, activations))


def per_channel(weights: int, activations: int) -> Policy:
    """UNIQ on ImageNet's ResNets: one weight step per output channel, first and last layer per tensor."""
    per_tensor = tuple(Rule(pattern, {"granularity": "tensor"}) for pattern in FIRST_LAST)
    rules = (*_first_last(weights, activations), *per_tensor)
    return base_policy("uniq", weights, activations, rules, granularity="channel")


def _first_last(weights: int, activations: int) -> tuple[Rule, ...]:
    return in_float(*FIRST_LAST, "@shortcut") if 1 in (weights, activations) else at_8_bits(weights, activations)


METHODS.add("uniq", Method(weights=UniqWeight, activations=UniqActivation, paper="UNIQ (Pham et al., 2021)"))
POLICIES.add("uniq", per_tensor)
POLICIES.add("uniq-imagenet", per_channel)
