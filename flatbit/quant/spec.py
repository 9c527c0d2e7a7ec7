"""Specs: what each tensor of a layer gets, resolved from a policy; a file of a model carries them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

FLOAT_BITS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """What one tensor gets.

    Attributes:
        method, bits: the quantizer and its width.
        granularity: one step per ``tensor`` or per output ``channel``.
        options: of the method.
        candidates: widths that have a step each (``quantize_``); empty for one step.
    """

    method: str
    bits: int
    granularity: str = "tensor"
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[int, ...] = ()

    def __str__(self) -> str:
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        return f"{self.bits} bit {self.method} per {self.granularity}{options}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """What one layer gets.

    Attributes:
        policy: the name of the policy that decided.
        role: ``first``, ``last``, ``shortcut`` or ``inner``.
        tensors: the spec of each quantized tensor, by the name of its slot; the others stay in float.
        input_bits: the bits that its input is counted with in bit-operations, where no input
            quantizer of its own says so (an input quantized by the activation before, an 8-bit image).
        producers: the activations that quantize what it reads, where it has no input quantizer of its own; known
            once the model has run (``calibrate_``).
        averaged_from: of weights that are averages: their specs before captures were averaged onto the finer
            grid that ``tensors`` states.
    """

    policy: str
    role: str = "inner"
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    input_bits: int = FLOAT_BITS
    producers: tuple[str, ...] = ()
    averaged_from: Mapping[str, TensorSpec] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is quantized: a tensor of the layer, or the input that it reads."""
        return bool(self.tensors) or self.input_bits < FLOAT_BITS

    @property
    def weight(self) -> TensorSpec | None:
        """Of the tensor ``weight``."""
        return self.tensors.get("weight")

    @property
    def bias(self) -> TensorSpec | None:
        """Of the tensor ``bias``."""
        return self.tensors.get("bias")

    @property
    def input(self) -> TensorSpec | None:
        """Of the input."""
        return self.tensors.get("input")

    @property
    def output(self) -> TensorSpec | None:
        """Of the output."""
        return self.tensors.get("output")

    @property
    def weights(self) -> dict[str, TensorSpec]:
        """Of the weights, one or several, by slot."""
        return {slot: spec for slot, spec in self.tensors.items() if slot not in ("bias", "input", "output")}

    def stated(self) -> LayerSpec:
        """The same without what running the model showed: equal in layers that are quantized alike."""
        return replace(self, producers=())

    def with_tensor(self, slot: str, spec: TensorSpec | None) -> LayerSpec:
        """The same with another spec of one tensor; None for float."""
        rest = {name: kept for name, kept in self.tensors.items() if name != slot}
        return replace(self, tensors=rest if spec is None else rest | {slot: spec})
