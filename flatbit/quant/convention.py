"""The convention of a model: the rules an accuracy must be read with, found on the model itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ..wrappers import named_modules
from .grid import has_zero
from .policy import roles_of
from .spec import FLOAT_BITS, TensorSpec
from .table import bits_of, is_quantized, is_weighted, quantizer_of, row_of, spec_of, tensor_specs
from .widths import short_bits

ALIKE = ("policy", "weight_step", "activations", "batch_norm", "bias", "padding")
ROLES = ("first", "last", "shortcut")


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """What is quantized how, in one line; stored with every result.

    Attributes:
        policy: the policy's name, ``float`` for a float model.
        first, last, shortcut, inner: weight and activation bits in use in these layers (``W8/A8``;
            several where they differ; ``none`` where the model has no such layer).
        image: what the network's input is turned into.
        weight_step: one step per ``tensor`` or output ``channel``.
        activations: at each layer's ``input``, once at the activation's ``output``, or ``input, output`` where inner
            layers differ.
        batch_norm, bias: ``float`` or ``fixed point``.
        padding: ``real zero`` where a layer pads an input whose grid has no zero (signed, mid-rise), as far as
            calibration knows: the borders have no code; else None.
    """

    policy: str
    first: str
    last: str
    shortcut: str
    inner: str
    image: str
    weight_step: str
    activations: str
    batch_norm: str
    bias: str
    padding: str | None = None

    @property
    def integer_products(self) -> bool:
        """Whether every layer multiplies weights by inputs that are both quantized: integers at a step."""
        bits = (self.first, self.last, self.shortcut, self.inner, self.image)
        return not any(word in stated for stated in bits for word in ("float", f"W{FLOAT_BITS}", f"A{FLOAT_BITS}"))

    @property
    def bits(self) -> str:
        """Of the inner layers in one short word, ``W2/A2`` or ``mixed W2-6/A3-5``; ``W32/A32`` of a float model."""
        return f"W{FLOAT_BITS}/A{FLOAT_BITS}" if self.policy == "float" else short_bits(self.inner)

    @property
    def has_float_edges(self) -> bool:
        """Whether a quantized model's first or last layer is float."""
        return self.policy != "float" and "float" in (self.first, self.last)

    def differs_in_bits_alone(self, other: Convention) -> bool:
        """Whether both are one convention at two widths; what has the inner layers' bits in both differs with them."""
        same = {role for role in ROLES if getattr(self, role) == getattr(other, role)}
        same |= {role for role in ROLES if getattr(self, role) == self.inner and getattr(other, role) == other.inner}
        image = self.image == other.image or self.first != other.first
        return same == {*ROLES} and image and all(getattr(self, part) == getattr(other, part) for part in ALIKE)

    def in_words(self) -> str:
        """All but the policy and the inner layers, in a sentence."""
        stated_of = {"first": self.first, "last": self.last, "shortcut": self.shortcut, "image": self.image}
        parts = [f"{label} {stated}" for label, stated in stated_of.items()]
        parts += ["weights float" if self.weight_step == "none" else f"weight step per {self.weight_step}"]
        parts += ["activations float" if self.activations == "none" else f"activations at the {self.activations}"]
        parts += [f"batch norm {self.batch_norm}", f"bias {self.bias}"]
        parts += ["every product of integers"] if self.integer_products else []
        parts += [] if self.padding is None else ["padding stays a real zero, which the input's grid has not"]
        return ", ".join(parts)

    def __str__(self) -> str:
        return "float" if self.policy == "float" else f"{self.policy}: {self.inner}, {self.in_words()}"


def convention(model: nn.Module) -> Convention:
    """The convention of a model as it stands, quantized or float."""
    modules = {name: module for name, module in named_modules(model) if row_of(module)}
    products = [module for module in modules.values() if is_weighted(module)]
    policies = [spec.policy for module in modules.values() if (spec := spec_of(module))]
    roles: dict[str, set[str]] = {}
    weighted = [(name, modules[name], role) for name, role in _roles(model).items()]
    for _, module, role in weighted:
        roles.setdefault(role, set()).add(_bits(module))
    first = next((module for _, module, role in weighted if role == "first"), None)
    reads = None if first is None else quantizer_of(first, "input")
    return Convention(
        policy=policies[0] if policies else "float",
        **{role: ", ".join(sorted(roles.get(role, {"none"}))) for role in ("first", "last", "shortcut", "inner")},
        image=f"{reads.bit_width()} bit" if reads is not None else "float",
        weight_step=", ".join(sorted({s.granularity for m in products for s in tensor_specs(m, "weight")})) or "none",
        activations=_placements(modules.values()),
        batch_norm=_fixed(tensor_specs(module, "weight") for module in modules.values() if not is_weighted(module)),
        bias=_fixed(tensor_specs(module, "bias") for module in modules.values()),
        padding="real zero" if any(_pads_off_grid(module) for module in products) else None,
    )


def _pads_off_grid(layer: nn.Module) -> bool:
    """Whether a layer pads with zeros, by itself, an input whose grid is known and has none."""
    quantizer = quantizer_of(layer, "input")
    padding = getattr(layer, "padding", 0)
    pads = padding == "same" if isinstance(padding, str) else any(torch.as_tensor(padding).flatten().tolist())
    zeros = getattr(layer, "padding_mode", "zeros") == "zeros" and not getattr(layer, "transposed", False)
    if quantizer is None or not pads or not zeros or any(buffer.is_meta for buffer in quantizer.buffers()):
        return False
    if not quantizer.calibrated:
        return False
    grid = quantizer.grid(torch.zeros(1, 1, device=quantizer.bits.device))
    return not has_zero(grid.offset, grid.low, grid.high)


def _roles(model: nn.Module) -> dict[str, str]:
    """The role of every weighted layer: as its spec says; a float one's by definition, or an edge that is vacant."""
    defined = roles_of(model)
    specs = {name: spec for name, module in named_modules(model) if (spec := spec_of(module))}
    roles = {name: specs[name].role if name in specs else role for name, role in defined.items()}
    left = [name for name, role in roles.items() if name not in specs and role == "inner"]
    for edge in ("first", "last"):
        if edge in defined.values() and edge not in roles.values() and left:
            roles[left.pop()] = edge
    return roles


def _bits(module: nn.Module) -> str:
    return "W{}/A{}".format(*bits_of(module)) if is_quantized(module) else "float"


def _placements(modules: Iterable[nn.Module]) -> str:
    """Where activations are quantized; what first and last layers do counts where nothing else is."""
    holding = [(module, place) for module in modules for place in ("input", "output") if tensor_specs(module, place)]
    inner = {place for module, place in holding if not _is_first_or_last(module)}
    return ", ".join(sorted(inner or {place for _, place in holding})) or "none"


def _is_first_or_last(module: nn.Module) -> bool:
    spec = spec_of(module)
    return spec is not None and spec.role in ("first", "last")


def _fixed(specs: Iterable[list[TensorSpec]]) -> str:
    return "fixed point" if any(specs) else "float"
