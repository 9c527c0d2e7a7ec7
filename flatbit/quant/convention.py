"""The convention of a model: the rules an accuracy must be read with, found on the model itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .layers import bits_of, is_quantized, row_of
from .policy import roles_of, spec_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """What is quantized how, in one line; stored with every result.

    Attributes:
        policy: the policy's name, ``float`` for a float model.
        first, last, shortcut, inner: weight and activation bits in use in these layers (``W8/A8``;
            several where they differ; ``none`` where the model has no such layer).
        image: what the network's input is turned into.
        weight_step: one step per ``tensor`` or output ``channel``.
        activations: at each layer's ``input`` or once at the activation's ``output``.
        batch_norm, bias: ``float`` or ``fixed point``.
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

    def in_words(self) -> str:
        """All but the policy and the inner layers, in a sentence."""
        edges = {"first": self.first, "last": self.last, "shortcut": self.shortcut, "image": self.image}
        parts = [f"{label} {stated}" for label, stated in edges.items()]
        parts += ["weights float" if self.weight_step == "none" else f"weight step per {self.weight_step}"]
        parts += ["activations float" if self.activations == "none" else f"activations at the {self.activations}"]
        return ", ".join([*parts, f"batch norm {self.batch_norm}", f"bias {self.bias}"])

    def __str__(self) -> str:
        return "float" if self.policy == "float" else f"{self.policy}: {self.inner}, {self.in_words()}"


def convention(model: nn.Module) -> Convention:
    """The convention of a model as it stands, quantized or float."""
    modules = {name: module for name, module in model.named_modules() if row_of(module)}
    layers = [(module, spec_of(module)) for module in modules.values()]
    specs = [spec for _, spec in layers if spec]
    roles: dict[str, set[str]] = {}
    weighted = [(name, modules[name], role) for name, role in _roles(model).items()]
    for _, module, role in weighted:
        roles.setdefault(role, set()).add(_bits(module))
    first = next((module for _, module, role in weighted if role == "first"), None)
    reads = getattr(first, "input_quantizer", None)
    at_output = any(s.output for s in specs)
    return Convention(
        policy=specs[0].policy if specs else "float",
        **{role: ", ".join(sorted(roles.get(role, {"none"}))) for role in ("first", "last", "shortcut", "inner")},
        image=f"{reads.bit_width()} bit" if reads is not None else "float",
        weight_step=", ".join(sorted({s.weight.granularity for m, s in layers if s and _is_weighted(m) and s.weight}))
        or "none",
        activations="output" if at_output else "input" if any(s.input for s in specs) else "none",
        batch_norm=_fixed(s.weight for m, s in layers if s and not _is_weighted(m) and s.weight),
        bias=_fixed(s.bias for s in specs if s.bias),
    )


def _roles(model: nn.Module) -> dict[str, str]:
    """The role of every weighted layer: as its spec says; a float one's by definition, or an edge that is vacant."""
    defined = roles_of(model)
    specs = {name: spec for name, module in model.named_modules() if (spec := spec_of(module))}
    roles = {name: specs[name].role if name in specs else role for name, role in defined.items()}
    left = [name for name, role in roles.items() if name not in specs and role == "inner"]
    for edge in ("first", "last"):
        if edge in defined.values() and edge not in roles.values() and left:
            roles[left.pop()] = edge
    return roles


def _is_weighted(module: nn.Module) -> bool:
    row = row_of(module)
    return row is not None and row.kind in ("convolution", "linear")


def _bits(module: nn.Module) -> str:
    return "W{}/A{}".format(*bits_of(module)) if is_quantized(module) else "float"


def _fixed(specs: object) -> str:
    return "fixed point" if any(True for _ in specs) else "float"  # type: ignore[attr-defined]
