"""DQ's penalty on cost: bit-operations above a budget, through the bit-widths that it learns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...quant.cost import FLOAT_BITOPS, Cost, cost
from ...quant.rounding import wide
from ...quant.spec import FLOAT_BITS
from ...quant.table import quantizer_of, quantizers_of, slots_of, spec_of
from ...wrappers import named_modules
from . import LOSSES, LossTerm

MILLION = 1e6
_costs: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Cost]] = WeakKeyDictionary()


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CostPenalty(LossTerm):
    """``max(0, c(b) - C)^2``, c of one image in millions of bit-operations (DQ, section 4; SAQ, appendix B).

    Its gradient reaches the bits of methods that learn them (``dq``), straight through the rounding up.

    Attributes:
        target_mbitops: C, in millions of bit-operations of one image.
        weight: of the term; the papers leave it open, it belongs to the size of the net.

    Raises:
        ValueError: a target or weight that is not positive; when called, a net that learns no bits.
    """

    target_mbitops: float
    weight: float = 1e-4
    name: str = field(default="cost_penalty", metadata={"setting": False})

    def __post_init__(self) -> None:
        for key in ("target_mbitops", "weight"):
            value = getattr(self, key)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{self.name}: {key}={value!r}: expected a positive number")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> Tensor:
        return (mbitops(model, tuple(x.shape[1:])) - self.target_mbitops).clamp_min(0).square()

    def check(self, model: nn.Module) -> None:
        """Raise ValueError where the net learns no bits."""
        if not any(quantizer.width().requires_grad for _, quantizer in quantizers_of(model)):
            raise _learns_no_bits(model)


def mbitops(model: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Millions of bit-operations of one image, differentiable by learned bit-widths; a scalar.

    Raises ValueError for a net that learns no bits: the term could not act on it.
    """
    costs = _costs.setdefault(model, {})
    if input_shape not in costs:
        costs[input_shape] = cost(model, input_shape)
    modules, counted = dict(named_modules(model)), [layer for layer in costs[input_shape].layers if layer.macs]
    learned = [(modules[layer.name], layer.macs - layer.outside_macs) for layer in counted]
    total = sum(_width(layer, "weight") * _width(layer, "input") * macs for layer, macs in learned)
    total += FLOAT_BITOPS * sum(layer.outside_macs for layer in counted) + costs[input_shape].activation_bitops
    if not isinstance(total, Tensor) or (torch.is_grad_enabled() and not total.requires_grad):
        raise _learns_no_bits(model)
    return total / MILLION


def _learns_no_bits(model: nn.Module) -> ValueError:
    return ValueError(
        f"cost_penalty of {type(model).__name__}: expected a method that learns its bits (dq), got none: leave the "
        "term out"
    )


def _width(layer: Any, role: Literal["weight", "input"]) -> Tensor | int:
    """Bits of a layer's weight or input, as a tensor where a quantizer holds them."""
    held = [quantizer_of(layer, slot.name) for slot in slots_of(layer, role)]
    widths = [wide(quantizer.width()) for quantizer in held if quantizer is not None]
    if not widths or None in held:
        spec = spec_of(layer)
        return FLOAT_BITS if role == "weight" or spec is None else spec.input_bits
    if len(widths) == 1:
        return widths[0]
    together = torch.stack(widths)
    return together.index_select(0, together.argmax().reshape(1)).squeeze(0)


LOSSES.add("cost_penalty", CostPenalty)
