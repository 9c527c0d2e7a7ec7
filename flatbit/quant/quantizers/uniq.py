"""UNIQ: one symmetric quantizer from 1 bit up, with a learned step that starts MSE-optimal.

Pham, Abraham, Chung: Training multi-bit quantized and binarized networks with a learnable
symmetric quantizer, IEEE Access 2021.
"""

from __future__ import annotations

from typing import Any, Literal, final

from torch import Tensor

from ..grid import Levels, midrise
from ..learned import LearnedStepActivation, LearnedStepWeight
from ..optimal_step import Density, midrise_step, unsigned_step
from ..options import one_of_or_positive
from ..quantizer import Site
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

    def levels(self, x: Tensor) -> Levels:
        return midrise(*self._numbers(self.bits))

    def start(self, w: Tensor) -> Tensor:
        shape = tuple(self.step.shape)
        if density := DENSITIES.get(self.start_rule):
            return midrise_step(self.bit_width(), density) * spread(w, shape)
        return _table5_start(self.start_rule, mean_magnitude(w, shape), self.levels(w))


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

    def signed_levels(self, bits: int) -> Levels:
        return midrise(bits)

    def start(self, x: Tensor) -> Tensor:
        density = DENSITIES.get(self.start_rule)
        if density is None:
            return _table5_start(self.start_rule, mean_magnitude(x), self.levels(x))
        rms, bits = x.float().square().mean().sqrt(), self.bit_width()
        return midrise_step(bits, density) * rms if self.signed else unsigned_step(bits, density) * 2**0.5 * rms

    def sharing(self, x: Tensor) -> int:
        return x.numel()


def _table5_start(rule: Start, magnitude: Tensor, levels: Levels) -> Tensor:
    """A constant, or LSQ's ``2 E|x| / sqrt(highest code)`` (Table 5's other starts)."""
    if rule == "lsq":
        return 2 * magnitude / max(float(levels.high), 1.0) ** 0.5
    return magnitude.new_full(magnitude.shape, float(rule))


METHODS.add("uniq", Method(weights=UniqWeight, activations=UniqActivation, paper="UNIQ (Pham et al., 2021)"))
