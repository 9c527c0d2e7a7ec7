"""XNOR-Net: binary weights with one scale per output filter, and the signs of activations.

Rastegari, Ordonez, Redmon, Farhadi: XNOR-Net: ImageNet classification using binary convolutional
neural networks, ECCV 2016.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ..first_last import in_float
from ..grid import CodeRange, midrise
from ..policy import POLICIES, Policy, base_policy
from ..quantizer import Quantizer
from ..rounding import SMALLEST_STEP, straight_through
from ..site import Site
from ..statistics import mean_magnitude
from . import METHODS, Method


@final
class XnorWeight(Quantizer):
    """Binary weights ``sign(w) mean|w|`` per output filter, sign(0) = +1 (XNOR-Net, eqs 6-7).

    Backward: ``dL/dw = g 1[|w| <= 1]``; ``mask=False`` passes g unchanged, for nets that start from
    float weights, which may lie outside [-1, 1].
    """

    method = "xnor"
    surrogate = "identity"
    supported_bits = (1,)
    refusal = "XNOR-Net is binary"
    granularities = ("tensor", "channel")

    def __init__(self, bits: int, site: Site, granularity: str = "channel", *, mask: bool = True) -> None:
        super().__init__(bits, site, granularity)
        self.mask = mask

    def limit(self, x: Tensor) -> Tensor:
        return straight_through(x, x.clamp(-1, 1)) if self.mask else x

    def code_range(self, x: Tensor) -> CodeRange:
        return midrise(1)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return 2 * mean_magnitude(x, self.step_shape).clamp_min(SMALLEST_STEP)

    def observe_(self, x: Tensor) -> None:
        """Nothing to set: the scales are computed from the weight at every forward."""


@final
class XnorActivation(Quantizer):
    """Signs of activations, +-1 with sign(0) = +1; gradient ``1[|x| <= 1]`` (XNOR-Net, section 3.2).

    An input that is never negative would become constant, so calibration refuses it: the method
    expects batch-norm, sign, convolution in this order.
    """

    method = "xnor"
    surrogate = "identity"
    supported_bits = (1,)
    refusal = "XNOR-Net is binary"
    takes_unsigned = False

    def limit(self, x: Tensor) -> Tensor:
        return straight_through(x, x.clamp(-1, 1))

    def code_range(self, x: Tensor) -> CodeRange:
        return midrise(1)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return torch.full((), 2.0, dtype=x.dtype, device=x.device)

    def observe_(self, x: Tensor) -> None:
        if not bool((x < 0).any()):
            raise ValueError(
                f"{self.site}: the input is never negative, so its sign is constant and carries nothing: xnor expects "
                "batch-norm, sign, convolution in this order. Build the model without the ReLU before it "
                "(activation='hardtanh'), or take method 'uniq', whose 1-bit activations are {0, step}"
            )


def convention(weights: int, activations: int) -> Policy:
    """XNOR-Net: one scale per output filter; first and last layer float."""
    return base_policy("xnor", weights, activations, in_float(), granularity="channel")


METHODS.add("xnor", Method(weights=XnorWeight, activations=XnorActivation, paper="XNOR-Net (Rastegari et al., 2016)"))
POLICIES.add("xnor", convention)
