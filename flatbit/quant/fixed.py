"""Fixed grids: the quantizers of a net that was read from a packed file. They compute, and nothing moves them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from .grid import CodeRange
from .quantizer import Quantizer
from .rounding import Ties, quantized_value
from .site import Site
from .spec import TensorSpec

WORDS = (
    "it was read from a packed file, whose grids are fixed and which has no latent weights: train the model of a file "
    "that flatbit.save wrote, then pack it anew (flatbit.restore_(model) makes a float model of the packed values)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Coding:
    """A grid without its steps, and how many bits hold a code.

    Attributes:
        bits: of a code as it is stored, ``code - low``: those in use, which DQ learns.
        offset, low, high: as ``Grid`` has them.
        ties: where a value half way between two levels goes (``nearest_code``).
        shape: of the tensor whose codes are stored; None for an activation.
    """

    bits: int
    offset: float
    low: int
    high: int
    ties: Ties = "even"
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 32 or not abs(self.low) <= 1 << 31 or not 0 <= self.high - self.low < 1 << self.bits:
            raise ValueError(f"codes {self.low} to {self.high} of {self.bits} bits: expected as many as the bits hold")
        if not abs(self.offset) < 1e9:  # NaN is not either
            raise ValueError(f"offset={self.offset}: expected a number, 0 or 1/2 as a rule")
        if not all(size >= 1 for size in self.shape or ()):
            raise ValueError(f"shape={self.shape}: expected sizes of 1 or more")


@final
class FixedGrid(Quantizer):
    """Rounds to a grid that is given; has no gradient, and refuses to be calibrated or to change its bits.

    Attributes:
        coding: the grid without its step.
        step: buffer, of ``step_shape``; NaN until it is loaded.
    """

    surrogate = "identity"
    supported_bits = range(1, 33)
    granularities = ("tensor", "channel")
    step: Tensor

    def __init__(self, spec: TensorSpec, site: Site, coding: Coding) -> None:
        self.method, self.ties = spec.method, coding.ties
        super().__init__(spec.bits, replace(site, candidates=()), spec.granularity)
        self.coding = coding
        self.primitive = fixed_value
        self.add_state("step", self.step_shape, learned=False)

    def limit(self, x: Tensor) -> Tensor:
        """x within the outer levels, where ties go away from zero: that rounding has a highest code only."""
        if self.ties != "away":
            return x
        ends = [self.step * (code + self.coding.offset) for code in (self.coding.low, self.coding.high)]
        return torch.clamp(x, *ends)

    def code_range(self, x: Tensor) -> CodeRange:
        return CodeRange(self.coding.offset, self.coding.low, self.coding.high)

    def step_of(self, x: Tensor, codes: CodeRange) -> Tensor:
        return self.step

    def bit_width(self) -> int:
        return self.coding.bits

    def width(self) -> Tensor:
        return torch.full_like(self.bits, self.coding.bits)

    def observe_(self, x: Tensor) -> None:
        """Refuse: nothing is calibrated. Raises ValueError."""
        raise ValueError(f"{self.site} cannot be calibrated: {WORDS}")

    def reset_(self) -> None:
        """Refuse: what is forgotten could not be found anew. Raises ValueError."""
        raise ValueError(f"{self.site} cannot be calibrated: {WORDS}")

    def check_assignable(self, bits: int) -> None:
        """Refuse another width. Raises ValueError."""
        raise ValueError(f"{self.site} cannot change its bits: {WORDS}")


def fixed_value(x: Tensor, *grid: Any, ties: Ties, **_: Any) -> Tensor:
    """``fake_quantize`` in value, whose backward raises RuntimeError: it has no surrogate."""
    return _NoGradient.apply(x, *grid, ties)  # type: ignore[return-value]


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *grid: Any) -> Tensor:
        return quantized_value(x, *grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise RuntimeError(f"this model cannot be trained: {WORDS}")


def has_fixed_grids(model: nn.Module) -> bool:
    """Whether a model was read from a packed file: any of its quantizers is a ``FixedGrid``."""
    return any(isinstance(module, FixedGrid) for module in model.modules())


def refuse_training_(model: nn.Module) -> None:
    """Let a model with fixed grids raise RuntimeError where it is called in training mode, in place."""
    model.register_forward_pre_hook(_refuse_training)


def _refuse_training(model: nn.Module, *_: Any) -> None:
    if model.training and has_fixed_grids(model):
        raise RuntimeError(
            f"{type(model).__name__} is in training mode and cannot be trained, call model.eval(): {WORDS}"
        )


def between_levels(low: int, high: int, offset: float, step: Tensor) -> Tensor:
    """Levels, what lies half way and a quarter of the way between them, and what lies beyond; shape (1, n)."""
    quarters = torch.arange(4 * (low - 2), 4 * (high + 2) + 1, device=step.device, dtype=step.dtype) / 4
    return ((quarters + offset) * step).reshape(1, -1)
