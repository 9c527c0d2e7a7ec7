"""Abstract quantizers whose step is a parameter: what LSQ, LSQ+ and UNIQ have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from .activation import ActivationQuantizer
from .grid import CodeRange
from .quantizer import Quantizer
from .rounding import Number, learned_step, smallest_step
from .site import Site


class LearnedStepWeight(Quantizer, ABC):
    """A weight quantizer with a learned step per tensor or per output channel; abstract.

    ``dL/dstep`` is multiplied by ``1/sqrt(n max(high, 1))``, n the weights that share the step and
    ``high`` the highest code, unless ``gradient_scale=False``.

    Attributes:
        step: parameter, of ``step_shape``.
    """

    surrogate = "learned"
    learned_ranges = ("step",)
    granularities = ("tensor", "channel")
    step: nn.Parameter

    def __init__(self, bits: int, site: Site, granularity: str = "tensor", *, gradient_scale: bool = True) -> None:
        super().__init__(bits, site, granularity)
        self.add_state("step", self.step_shape, learned=True)
        self.gradient_scale = gradient_scale

    @abstractmethod
    def start(self, w: Tensor) -> Tensor:
        """The step to start from, of ``step_shape``; 0 for a channel that is all zero."""

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        step = self.current("step")
        if not self.gradient_scale:
            return learned_step(step)
        return learned_step(step, _scale(x.numel() // step.numel(), codes.high, step))

    def observe_(self, x: Tensor) -> None:
        self.set_state_("step", self.start(x.detach()).clamp_min(smallest_step(self.step)))


class LearnedStepActivation(ActivationQuantizer, ABC):
    """An activation quantizer with one learned step; abstract.

    ``dL/dstep`` is multiplied by ``1/sqrt(n max(high, 1))``, n what ``sharing`` counts and ``high``
    the highest code, unless ``gradient_scale=False``.

    Attributes:
        step: parameter, shape ().
    """

    surrogate = "learned"
    learned_ranges = ("step",)
    range_name = "step"
    step: nn.Parameter

    def __init__(
        self,
        bits: int,
        site: Site,
        granularity: str = "tensor",
        *,
        signed: bool | None = None,
        gradient_scale: bool = True,
    ) -> None:
        super().__init__(bits, site, granularity, signed=signed)
        self.add_state("step", learned=True)
        self.gradient_scale = gradient_scale

    @abstractmethod
    def sharing(self, x: Tensor) -> int:
        """How many elements the gradient scale counts as sharing the step."""

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        step = self.current("step")
        return (
            learned_step(step, _scale(self.sharing(x), codes.high, step)) if self.gradient_scale else learned_step(step)
        )


def _scale(count: int, high: Number, step: Tensor) -> Number:
    high = high.clamp_min(1).to(step.dtype) if isinstance(high, Tensor) else max(high, 1)
    return (count * high) ** -0.5
