"""PACT: activations with a learned clip, trained by the clipped values alone.

Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan: PACT: parameterized clipping
activation for quantized neural networks, 2018. HOL uses it for all its activations.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from ..activation import ActivationQuantizer
from ..first_last import in_float
from ..grid import CodeRange, midtread
from ..options import one_of_or_positive
from ..policy import POLICIES, Policy, base_policy
from ..rounding import Number, learned_step
from ..site import Site
from ..statistics import percentile
from . import METHODS, Method

PERCENT = 99.9


@final
class PactActivation(ActivationQuantizer):
    """Unsigned activations with a learned clip a (PACT, eqs 1-3).

    ``y = clip(x, 0, a)``, ``y^q = round(y M/a) a/M``, ``M = 2^b - 1``. Gradients:
    ``dy^q/dx = 1[0 < x < a]``, ``dy^q/da = 1[x >= a]``: the rounding residual does not reach a.
    Signed inputs (HOL's residual tensors): ``clip(x, -a, a)``, levels ``k a/(2^(b-1) - 1)``.

    Start: the largest 99.9th percentile over 5 calibration batches (of |x| where signed), as HOL
    needs; ``clip=10.0`` for PACT's own start and ``clip=1.0`` for SAQ's comparisons.

    Attributes:
        clip: parameter a, shape (); decays with the weights (PACT's L2 penalty).
    """

    method = "pact"
    surrogate = "clip"
    decays = True
    learned_ranges = ("clip",)
    calibration_batches = 5
    range_name = "clip"
    signed_bits = range(2, 9)
    signed_refusal = "the signed grid k a/(2^(b-1) - 1) has the single level 0"
    clip: nn.Parameter

    def __init__(
        self,
        bits: int,
        site: Site,
        granularity: str = "tensor",
        *,
        signed: bool | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__(bits, site, granularity, signed=signed)
        self.add_state("clip", learned=True)
        self.fixed_start = None if clip is None else one_of_or_positive(site, "clip", clip, ())

    def signed_range(self, bits: Number) -> CodeRange:
        return midtread(bits)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return learned_step(self.current("clip")) / codes.high

    def start(self, x: Tensor) -> Tensor:
        if self.fixed_start is not None:
            return x.new_tensor(self.fixed_start)
        return percentile(x.abs(), PERCENT) if self.signed else percentile(x, PERCENT)


def convention(weights: int, activations: int) -> Policy:
    """PACT: DoReFa's weights, clips that start at 10 as in its paper; first and last layer float."""
    options = {"clip": 10.0}
    return base_policy("dorefa", weights, activations, in_float(), activation_method="pact", activation_options=options)


METHODS.add("pact", Method(activations=PactActivation, paper="PACT (Choi et al., 2018)"))
POLICIES.add("pact", convention)
