"""Settings: what a policy says of one layer, and which of it no layer could take, checked where it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import nn

from ..registry import nearest
from .quantizer import MAX_BITS
from .quantizers import make_quantizer, quantizer_class
from .site import Site
from .spec import FLOAT_BITS, LayerSpec, TensorSpec
from .table import Row, Slot

METHOD_SETTINGS: dict[Literal["weight", "input"], frozenset[str]] = {
    "weight": frozenset(("method", "granularity", "weight_options")),
    "input": frozenset(("activation_method", "activation_options")),
}
"""Which settings say how the tensors of a role are quantized, where they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a policy says of one layer, before it is known what the layer is.

    Attributes:
        weights, activations: bits, 32 for float.
        method, activation_method: names from ``flatbit list quantizers``.
        granularity: one weight step per ``tensor`` or per output ``channel``.
        weight_options, activation_options: keyword arguments of the method's quantizers.
        input_bits: what the input counts as in bit-operations; None for ``activations``.
        placement: of a weighted layer: whether its own ``input`` is quantized, or was at the ``output`` of what it
            reads; of an activation module: whether its output is.
        norm, bias: of batch norms' scales, and of the biases of all layers (norms' only with ``norm``); None for float.
    """

    weights: int
    activations: int
    method: str
    activation_method: str
    granularity: str = "tensor"
    weight_options: Mapping[str, Any] = field(default_factory=dict)
    activation_options: Mapping[str, Any] = field(default_factory=dict)
    input_bits: int | None = None
    placement: Literal["input", "output"] = "input"
    norm: TensorSpec | None = None
    bias: TensorSpec | None = None

    def tensor(self, slot: Slot, row: Row) -> TensorSpec | None:
        """What a slot gets."""
        if slot.role == "bias":
            return self.bias if row.macs is not None or self.norm is not None else None
        if slot.role in ("input", "output"):
            return self._activations() if self.placement == slot.role else None
        if row.kind == "normalization":
            return self.norm
        if self.weights >= FLOAT_BITS:
            return None
        return TensorSpec(
            method=self.method, bits=self.weights, granularity=self.granularity, options=self.weight_options
        )

    def _activations(self) -> TensorSpec | None:
        if self.activations >= FLOAT_BITS:
            return None
        return TensorSpec(method=self.activation_method, bits=self.activations, options=self.activation_options)

    def layer(self, policy: str, module: nn.Module, row: Row, role: str) -> LayerSpec:
        """What a layer of the table gets.

        Args:
            policy: the name of the policy that decides.
            module, row: the layer, and what the table says of it.
            role: of a weighted layer, as ``roles_of`` has it; empty for others.
        """
        present = [slot for slot in row.slots if slot.role in ("input", "output") or _holds(module, slot)]
        tensors = {slot.name: spec for slot in present if (spec := self.tensor(slot, row)) is not None}
        spec = LayerSpec(policy=policy, role=role or "inner", tensors=tensors)
        if row.macs is None:
            return spec
        return replace(spec, input_bits=self.activations if self.input_bits is None else self.input_bits)


def check_changes(where: str, changes: Mapping[str, Any]) -> None:
    """Raise ValueError for an unknown setting, or a value that the setting does not have.

    Args:
        where: who gives them, for the error.
        changes: values by the names of ``Settings``.
    """
    known = [f.name for f in fields(Settings)]
    for key, value in changes.items():
        if key not in known:
            raise ValueError(f"{where}: unknown setting {key!r}: {nearest(key, known)}")
        if key in ("weights", "activations") or (key == "input_bits" and value is not None):
            check_bits(f"{where}: {key}", value)
        if key in ("norm", "bias") and not isinstance(value, TensorSpec | None):
            raise ValueError(f"{where}: {key}={value!r}: expected a TensorSpec, or None for float")
        if key == "placement" and value not in ("input", "output"):
            raise ValueError(f"{where}: placement={value!r}: expected input or output")
        if key.endswith("_options") and not isinstance(value, Mapping):
            raise ValueError(f"{where}: {key}={value!r}: expected a mapping of options, as {{'signed': True}}")


def check_quantizers(layers: str, possible: Sequence[Settings], given: Mapping[str, Any]) -> None:
    """Raise ValueError for a method, granularity or option that no quantizer takes, at any width.

    Args:
        layers: whose, for the error.
        possible: the settings that may come of it, which differ where an earlier rule names another method; one
            that takes what is given is enough.
        given: what is checked, by the names of ``Settings``.
    """
    for role, keys in METHOD_SETTINGS.items():
        if keys.isdisjoint(given):
            continue
        refused = [why for settings in possible if (why := _refusal(layers, role, settings))]
        if len(refused) == len(possible):
            raise ValueError(refused[0])


def _refusal(layers: str, role: Literal["weight", "input"], settings: Settings) -> str:
    """Why no quantizer of that role can be made by these settings; empty where one can."""
    method, options = settings.activation_method, settings.activation_options
    granularity = "tensor"
    if role == "weight":
        method, options, granularity = settings.method, settings.weight_options, settings.granularity
    spec = TensorSpec(method=method, bits=MAX_BITS, granularity=granularity, options=options)
    site = Site(layer=layers, role=role)
    try:
        widest = max(quantizer_class(spec, site).supported_bits)
        make_quantizer(replace(spec, bits=widest), site)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def check_bits(what: str, bits: int) -> None:
    """Raise ValueError unless ``bits`` is 1 to 8, or 32 for float."""
    if (
        not isinstance(bits, int)
        or isinstance(bits, bool)
        or (bits != FLOAT_BITS and bits not in range(1, MAX_BITS + 1))
    ):
        raise ValueError(f"{what}={bits!r}: expected 1 to {MAX_BITS} bits, or {FLOAT_BITS} for float")


def _holds(module: nn.Module, slot: Slot) -> bool:
    """Whether a module has the tensor of a slot (a layer may have no bias, a norm no scale)."""
    return slot.name in module._parameters and module._parameters[slot.name] is not None
