"""LSQ+: LSQ with a learned offset for activations that have a few negative values.

Bhalgat, Lee, Nagel, Blankevoort, Kwak: LSQ+: improving low-bit quantization through learnable
offsets and better initialization, CVPR workshops 2020.
"""

from __future__ import annotations

import math
from typing import Literal, final

from torch import Tensor, nn

from ..grid import CodeRange, twos_complement, unsigned
from ..learned import LearnedStepWeight
from ..options import one_of
from ..quantizer import Quantizer
from ..rounding import learned_step
from ..site import Site
from ..statistics import group_mean, spread
from . import METHODS, Method
from .lsq import ONE_BIT


@final
class LsqPlusWeight(LearnedStepWeight):
    """LSQ's weights from LSQ+'s start: ``s = max(|mu - 3 sd|, |mu + 3 sd|) / 2^(b-1)`` (section 3.2)."""

    method = "lsq_plus"
    supported_bits = range(2, 9)
    refusal = ONE_BIT

    def code_range(self, x: Tensor) -> CodeRange:
        return twos_complement(self.whole_bits())

    def unit_step(self, bits: int) -> float:
        return 0.5 ** (bits - 1)

    def start(self, w: Tensor) -> Tensor:
        shape = self.step_shape
        reach = group_mean(w, shape).abs() + 3 * spread(w, shape)
        return reach / 2 ** (self.bit_width() - 1)


@final
class LsqPlusActivation(Quantizer):
    """Activations with a learned step s and offset B (LSQ+, eqs 1-4).

    ``x^q = s round(clip((x - B)/s, 0, 2^b - 1)) + B``. Gradients: ``ds`` as LSQ; ``dx^q/dB`` is 0
    inside the range, 1 outside. The grid's offset is ``B/s``. Start: the s and B of least mean
    squared error on the first batch (``start="minmax"``: ``s = (max - min)/(2^b - 1)``, ``B = min``).
    One range serves inputs of either sign, so nothing is decided about signs.

    Attributes:
        step, shift: parameters s and B, shape ().
    """

    method = "lsq_plus"
    surrogate = "learned"
    learned_ranges = ("step", "shift")
    uninformative = "constant"
    step: nn.Parameter
    shift: nn.Parameter

    def __init__(
        self,
        bits: int,
        site: Site,
        granularity: str = "tensor",
        *,
        start: Literal["mse", "minmax"] = "mse",
        gradient_scale: bool = True,
    ) -> None:
        super().__init__(bits, site, granularity)
        self.add_state("step", learned=True)
        self.add_state("shift", learned=True)
        self.start_rule = one_of(site, "start", start, ("mse", "minmax"))
        self.gradient_scale = gradient_scale

    def code_range(self, x: Tensor) -> CodeRange:
        return unsigned(self.whole_bits())

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        step = self.current("step")
        return learned_step(step, (x[0].numel() * codes.high) ** -0.5) if self.gradient_scale else learned_step(step)

    def shifted(self, codes: CodeRange, step: Tensor) -> CodeRange:
        return codes._replace(offset=self.current("shift") / step)

    def unit_step(self, bits: int) -> float:
        return 1 / (2**bits - 1)

    def scaled_state(self) -> tuple[str, ...]:
        """The shift is where the range begins, and stays."""
        return ("step",)

    def observe_(self, x: Tensor) -> None:
        low, high = x.detach().float().aminmax()
        if low == high:
            return
        step, shift = (high - low) / (2 ** self.bit_width() - 1), low
        if self.start_rule == "mse":
            step, shift = best_affine_grid(x.detach().float(), step, shift, 2 ** self.bit_width() - 1)
        self.set_state_("step", step)
        self.set_state_("shift", shift)


def best_affine_grid(x: Tensor, step: Tensor, shift: Tensor, high: int) -> tuple[Tensor, Tensor]:
    """The s and B of least mean squared error for codes 0..high, on at most 65536 values of x.

    Alternates nearest codes c with the regression of x on c, ``s = cov(x, c)/var(c)``,
    ``B = E x - s E c``, from the full range and from narrower ones, and keeps the best.
    """
    x = x.flatten()[:: max(1, x.numel() // 65536)].double()
    middle, best, least = shift + step * high / 2, (step, shift), math.inf
    for width in (1.0, 0.8, 0.6, 0.4, 0.2, 0.1):
        s, b = step.double() * width, middle.double() - width * step.double() * high / 2
        for _ in range(50):
            c = ((x - b) / s).clamp(0, high).round()
            error = float((s * c + b - x).square().mean())
            if error < least:
                best, least = (s, b), error
            variance = c.var(correction=0)
            if variance == 0:
                break
            s = ((x - x.mean()) * (c - c.mean())).mean() / variance
            b = x.mean() - s * c.mean()
    return best


METHODS.add(
    "lsq_plus", Method(weights=LsqPlusWeight, activations=LsqPlusActivation, paper="LSQ+ (Bhalgat et al., 2020)")
)
