"""The site: where in a model a quantizer stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where a quantizer stands: what its maths and its error messages may need to know.

    Attributes:
        layer: the layer's name in the model.
        role: what its tensor is: ``weight``, ``bias``, ``input`` or ``output``.
        tensor: the tensor's name in the layer, where it is not the role's (``weight_ih``).
        kind: what the layer is: ``convolution``, ``linear``, ``activation`` or ``normalization``.
        step_shape: shape of one step per output channel, broadcastable to ``by_group`` of the weight.
        groups: of a grouped transposed convolution, whose weight (c_in, c_out / groups, ...) has an axis for the
            output channels of one group only; 1 elsewhere.
        candidates: bit-widths that each have a step of their own; empty for one step at any width.
    """

    layer: str = "(no layer)"
    role: Literal["weight", "bias", "input", "output"] = "input"
    tensor: str = ""
    kind: Literal["convolution", "linear", "activation", "normalization"] = "convolution"
    step_shape: tuple[int, ...] = ()
    groups: int = 1
    candidates: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} of layer {self.layer!r}"

    @property
    def name(self) -> str:
        """The tensor's name in its layer."""
        return self.tensor or self.role

    def by_group(self, x: Tensor) -> Tensor:
        """x with an axis of its own for the groups, (groups, c_in / groups, c_out / groups, ...); else x itself."""
        return x.unflatten(0, (self.groups, -1)) if self.groups > 1 and x.ndim else x

    def by_row(self, step: Tensor, weight: Tensor) -> Tensor:
        """A step per output channel, repeated for the rows of ``weight`` that share it: broadcastable to the weight."""
        if self.groups == 1 or not step.ndim:
            return step
        return step.flatten(0, 1).repeat_interleave(len(weight) // self.groups, 0)
