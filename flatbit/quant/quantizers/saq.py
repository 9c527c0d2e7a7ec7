"""SAQ's quantizers: normalised weights and activations, each with a learned clip.

Liu, Cai, Zhuang: Sharpness-aware quantization for deep neural networks, 2021; the weight
normalisation is APoT's (Li, Dong, Wang, ICLR 2020).
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from ..activation import ActivationQuantizer
from ..first_last import at_8_bits
from ..grid import CodeRange, midrise
from ..policy import POLICIES, Policy, Rule, base_policy
from ..quantizer import Quantizer
from ..rounding import Number, learned_step
from ..site import Site
from ..spec import FLOAT_BITS
from ..statistics import spread
from . import METHODS, Method

FIRST_CLIP = 1.0
LINEAR_CLIP = 0.8  # of the largest magnitude, for fully connected layers (authors' code)


@final
class SaqWeight(Quantizer):
    """Mid-rise weights with a learned clip a (SAQ, eqs 1-2), after normalisation in convolutions.

    ``wt = (w - mean(w))/std(w)`` with both statistics detached (fully connected layers: ``wt = w``);
    ``h = (clip(wt/a, -1, 1) + 1)/2``, ``w^q = a (2 round(h s)/s - 1)``, ``s = 2^b - 1``: UNIQ's grid
    with ``D = 2 a/s``. Gradients: ``dw^q/dwt = 1[|wt| < a]``; ``dw^q/da = (w^q - wt)/a`` inside,
    ``sign(wt)`` outside; no gradient scale. Start: a = 1, fully connected layers ``0.8 max|w|``.

    Attributes:
        clip: parameter a, shape (); decays with the weights, as in the authors' code.
    """

    method = "saq"
    surrogate = "learned"
    ties = "even_from_low"
    decays = True
    learned_ranges = ("clip",)
    clip: nn.Parameter

    def __init__(self, bits: int, site: Site, granularity: str = "tensor") -> None:
        super().__init__(bits, site, granularity)
        self.add_state("clip", learned=True)

    def transform(self, x: Tensor) -> Tensor:
        if self.site.kind != "convolution":
            return x
        return (x - x.detach().mean()) / spread(x).clamp_min(1e-12)

    def code_range(self, x: Tensor) -> CodeRange:
        return midrise(self.whole_bits())

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return learned_step(self.current("clip")) * (2 / _intervals(self))

    def observe_(self, x: Tensor) -> None:
        convolution = self.site.kind == "convolution"
        self.set_state_("clip", x.new_tensor(FIRST_CLIP) if convolution else LINEAR_CLIP * x.detach().abs().max())


@final
class SaqActivation(ActivationQuantizer):
    """Unsigned activations with a learned clip a (SAQ, eqs 1-2).

    ``y^q = a round(clip(x/a, 0, 1) s)/s``, ``s = 2^b - 1``. Gradients: ``dy^q/dx = 1[0 < x < a]``;
    ``dy^q/da = (y^q - x)/a`` inside, 1 above, 0 below. Start: a = 1; fully connected layers (the last
    one) ``0.8 max|x|`` of the first calibration batch, which runs through the float net in eval mode,
    where the authors' code takes the first training batch. The paper has no signed form: where the
    input is signed, the weight's levels ``a (2 round(h s)/s - 1)`` are used.

    Attributes:
        clip: parameter a, shape (); decays with the weights.
    """

    method = "saq"
    surrogate = "learned"
    ties = "even_from_low"
    decays = True
    learned_ranges = ("clip",)
    range_name = "clip"
    clip: nn.Parameter

    def __init__(self, bits: int, site: Site, granularity: str = "tensor", *, signed: bool | None = None) -> None:
        super().__init__(bits, site, granularity, signed=signed)
        self.add_state("clip", learned=True)

    def signed_range(self, bits: Number) -> CodeRange:
        return midrise(bits)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        signed = self.is_signed()
        return learned_step(self.current("clip")) * ((1 + signed) / _intervals(self))

    def start(self, x: Tensor) -> Tensor:
        largest = x.abs().max()
        return LINEAR_CLIP * largest if self.site.kind == "linear" else FIRST_CLIP * (largest > 0)


def _intervals(quantizer: Quantizer) -> Number:
    """s = 2^b - 1, the number of steps between the lowest and the highest level."""
    return (1 << quantizer.whole_bits()) - 1


def convention(weights: int, activations: int) -> Policy:
    """SAQ: first and last weights 8 bits, the last input too; images not quantized, counted as 8 bits."""
    image = Rule("@first", {"activations": FLOAT_BITS, "input_bits": 8})
    return base_policy("saq", weights, activations, (*at_8_bits(weights, activations), image))


METHODS.add("saq", Method(weights=SaqWeight, activations=SaqActivation, paper="SAQ (Liu et al., 2021)"))
POLICIES.add("saq", convention)
