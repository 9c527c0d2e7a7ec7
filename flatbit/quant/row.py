"""Rows: what the table says of a class of layers: its quantized class, its slots, how its multiply-adds are counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

SLOT_ROLES = ("weight", "bias", "input", "output")
KINDS = ("convolution", "linear", "activation", "normalization")


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a layer that can be quantized.

    Attributes:
        name: of the tensor; its quantizer is the module ``NAME_quantizer``.
        role: what it is.
        channel_axis: of a weight: the axis of its output channels.
    """

    name: str
    role: Literal["weight", "bias", "input", "output"]
    channel_axis: int = 0

    def __post_init__(self) -> None:
        if self.role not in SLOT_ROLES:
            raise ValueError(f"slot {self.name!r}: role={self.role!r}: expected {' or '.join(map(repr, SLOT_ROLES))}")
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"slot {self.name!r}: expected the name of an attribute")
        if (self.role == "weight") == (self.name in SLOT_ROLES[1:]) or self.role not in ("weight", self.name):
            raise ValueError(
                f"slot {self.name!r} of role {self.role!r}: input, output and bias are called so, and a weight by the "
                "name of its parameter"
            )


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of a float class.

    Attributes:
        quantized: its quantized class.
        kind: what it is.
        slots: which of its tensors can be quantized, in the order that its forward uses them.
        macs: multiply-adds of a call, from the layer, its input and its output, whatever their first axis holds
            (images, windows, frames); None where it multiplies by no weight.
    """

    quantized: type[nn.Module]
    kind: Literal["convolution", "linear", "activation", "normalization"]
    slots: tuple[Slot, ...]
    macs: Callable[[Any, Tensor, Tensor], int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.quantized, type) or not issubclass(self.quantized, nn.Module):
            raise ValueError(f"row: quantized={self.quantized!r}: expected a class of modules")
        if why := self._fault():
            raise ValueError(f"row of {self.quantized.__name__}: {why}")

    def _fault(self) -> str:
        """What does not go together in it; empty where all does."""
        if self.kind not in KINDS:
            return f"kind={self.kind!r}: expected {' or '.join(map(repr, KINDS))}"
        if not isinstance(self.slots, tuple) or not all(isinstance(slot, Slot) for slot in self.slots):
            return f"slots={self.slots!r}: expected a tuple, as (INPUT, Slot('weight', 'weight'), BIAS)"
        roles, names = {slot.role for slot in self.slots}, [slot.name for slot in self.slots]
        if not names or len({*names}) < len(names):
            return f"slots {names}: expected one or more, each once"
        multiplies = self.kind in ("convolution", "linear")
        if multiplies and not callable(self.macs):
            return (
                f"macs={self.macs!r}: a {self.kind} layer says how many multiply-adds one image takes: "
                "a function of the layer, its input and its output, as linear_macs"
            )
        if multiplies and "weight" not in roles:
            return f"kind={self.kind!r}: expected a slot of role 'weight', which it multiplies by"
        if not multiplies and (self.macs is not None or {"weight", "input"} <= roles):
            return f"kind={self.kind!r}: what multiplies its input by a weight is 'linear' or 'convolution'"
        return ""


def linear_macs(layer: Any, _: Tensor, output: Tensor) -> int:
    """Each output meets every input feature."""
    return output.numel() * layer.in_features


def convolution_macs(layer: Any, x: Tensor, output: Tensor) -> int:
    """Each output, or each input of a transposed one, meets the kernels of its group."""
    met, others = (x, layer.out_channels) if layer.transposed else (output, layer.in_channels)
    return met.numel() * math.prod(layer.kernel_size) * others // layer.groups
