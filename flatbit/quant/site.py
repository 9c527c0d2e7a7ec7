"""The site: where in a model a quantizer stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where a quantizer stands: what its maths and its error messages may need to know.

    Attributes:
        layer: the layer's name in the model.
        role: what its tensor is: ``weight``, ``bias``, ``input`` or ``output``.
        tensor: the tensor's name in the layer, where it is not the role's (``weight_ih``).
        kind: what the layer is: ``convolution``, ``linear``, ``activation`` or ``normalization``.
        step_shape: shape of one step per output channel, broadcastable to the weight.
        candidates: bit-widths that each have a step of their own; empty for one step at any width.
    """

    layer: str = "(no layer)"
    role: Literal["weight", "bias", "input", "output"] = "input"
    tensor: str = ""
    kind: Literal["convolution", "linear", "activation", "normalization"] = "convolution"
    step_shape: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} of layer {self.layer!r}"

    @property
    def name(self) -> str:
        """The tensor's name in its layer."""
        return self.tensor or self.role
