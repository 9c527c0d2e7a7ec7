"""Policies: which tensor of which layer gets which quantizer. The papers' conventions are presets.

A policy is base settings and ordered rules; a later rule wins. A rule's pattern is a layer's name
with wildcards (``layer4.*``), a module type (``nn.Linear``), or a role: ``@first`` and ``@last`` of
the weighted layers in order of definition, ``@shortcut`` for the convolutions on a residual path.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import nn

from ..registry import nearest
from ..wrappers import named_modules
from .quantizer import MAX_BITS
from .spec import FLOAT_BITS, LayerSpec, TensorSpec
from .table import Row, Slot, has_unknown_products, is_weighted, row_of

ROLES = ("first", "last", "shortcut", "inner")
SHORTCUT = re.compile(r"(^|\.)(shortcut|downsample|skip)(\.|$)")
Pattern = str | type[nn.Module]


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


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings that change for the layers a pattern names; an ``optional`` one may name none."""

    pattern: Pattern
    changes: Mapping[str, Any]
    optional: bool = False


KEPT_IDENTITIES = Rule(nn.Identity, {"placement": "input"}, optional=True)
"""Identities are names in a model, not activations: none is quantized at its output unless a rule names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Which tensor of which layer gets which quantizer.

    Attributes:
        name: the preset it came from.
        base: settings of every layer.
        rules: what changes for which layers, in order.
        first, last: names of the layers that read the image and that give the logits; None for the
            first and the last one defined.
    """

    name: str
    base: Settings
    rules: tuple[Rule, ...] = ()
    first: str | None = None
    last: str | None = None

    def first_last(self, *, first: str | None = None, last: str | None = None) -> Policy:
        """The same policy for a model whose layers run in another order than they are defined in."""
        return replace(self, first=first or self.first, last=last or self.last)

    def override(self, pattern: Pattern, **changes: Any) -> Policy:
        """The same policy with one more rule: ``policy.override("layer4.*", weights=4)``.

        Args:
            pattern: a name with wildcards, a module type, ``@first``, ``@last`` or ``@shortcut``.
            changes: ``weights``, ``activations`` (bits, 32 for float), ``method``, ``placement`` and whatever else
                ``Settings`` has.

        Raises:
            ValueError: a setting or an ``@`` role that does not exist, or bits that no method has.
        """
        if isinstance(pattern, str) and pattern.startswith("@") and pattern[1:] not in ROLES:
            raise ValueError(f"override({pattern!r}): no such role: {nearest(pattern, [f'@{role}' for role in ROLES])}")
        known = [f.name for f in fields(Settings)]
        for key, value in changes.items():
            if key not in known:
                raise ValueError(f"override({pattern!r}): unknown setting {key!r}: {nearest(key, known)}")
            if key in ("weights", "activations"):
                check_bits(key, value)
            if key in ("norm", "bias") and not isinstance(value, TensorSpec | None):
                raise ValueError(f"override({pattern!r}): {key}={value!r}: expected a TensorSpec, or None for float")
            if key == "placement" and value not in ("input", "output"):
                raise ValueError(f"override({pattern!r}): placement={value!r}: expected input or output")
        return replace(self, rules=(*self.rules, Rule(pattern, changes)))

    def resolve(self, model: nn.Module) -> dict[str, LayerSpec]:
        """The spec of every layer that the table knows, by name.

        Raises:
            ValueError: a rule that matches no layer.
        """
        rows = {name: row for name, module in named_modules(model) if (row := row_of(module))}
        roles = roles_of(model, self.first, self.last)
        modules = {name: m for name, m in named_modules(model) if name in rows or has_unknown_products(m)}
        self._check_rules(modules, roles)
        return {name: self._spec(name, modules[name], row, roles.get(name, "")) for name, row in rows.items()}

    def keeps_float(self, name: str, module: nn.Module) -> bool:
        """Whether the policy leaves a module that the table does not know in float, weights and activations."""
        settings = self._settings(name, module, "")
        return settings.weights == settings.activations == FLOAT_BITS

    def places_outputs(self) -> bool:
        """Whether activations are quantized where they are made, for all layers that are not told otherwise."""
        return self.base.placement == "output" and self.base.activations < FLOAT_BITS

    def _settings(self, name: str, module: nn.Module, role: str) -> Settings:
        settings = self.base
        for rule in self.rules:
            if _matches(rule.pattern, name, module, role):
                settings = replace(settings, **rule.changes)
        return settings

    def _spec(self, name: str, module: nn.Module, row: Row, role: str) -> LayerSpec:
        settings = self._settings(name, module, role)
        present = [slot for slot in row.slots if slot.role in ("input", "output") or _holds(module, slot)]
        tensors = {slot.name: spec for slot in present if (spec := settings.tensor(slot, row)) is not None}
        spec = LayerSpec(policy=self.name, role=role or "inner", tensors=tensors)
        if row.macs is None:
            return spec
        return replace(spec, input_bits=settings.activations if settings.input_bits is None else settings.input_bits)

    def _check_rules(self, modules: dict[str, nn.Module], roles: dict[str, str]) -> None:
        for rule in self.rules:
            if rule.optional or (isinstance(rule.pattern, str) and rule.pattern.startswith("@")):
                continue  # a model need not have shortcuts
            if not any(_matches(rule.pattern, name, modules[name], roles.get(name, "")) for name in modules):
                raise ValueError(
                    f"policy {self.name!r}: no layer matches {rule.pattern!r}: {nearest(str(rule.pattern), modules)}"
                )


def roles_of(model: nn.Module, first: str | None = None, last: str | None = None) -> dict[str, str]:
    """The role of every weighted layer, by name: ``first``, ``last``, ``shortcut`` or ``inner``.

    First and last are so by definition where they are not named. A model with one weighted layer has
    a first and no last. Raises ValueError for a name that is no weighted layer.
    """
    weighted = [name for name, module in named_modules(model) if is_weighted(module)]
    roles = {name: "shortcut" if SHORTCUT.search(name) else "inner" for name in weighted}
    for name in filter(None, (first, last)):
        if name not in weighted:
            raise ValueError(f"no weighted layer {name!r} to be the first or last: {nearest(name, weighted)}")
    ends = {"last": [last] if last else weighted[-1:], "first": [first] if first else weighted[:1]}
    return roles | {name: role for role, names in ends.items() for name in names}


def base_policy(
    method: str,
    weights: int,
    activations: int,
    rules: tuple[Rule, ...] = (),
    *,
    activation_method: str | None = None,
    **settings: Any,
) -> Policy:
    """A policy of one method throughout, but for its rules; ``settings`` as ``Settings`` has them."""
    base = Settings(
        weights=weights,
        activations=activations,
        method=method,
        activation_method=activation_method or method,
        **settings,
    )
    kept = (KEPT_IDENTITIES,) if base.placement == "output" else ()
    return Policy(name=method, base=base, rules=(*kept, *rules))


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


def _matches(pattern: Pattern, name: str, module: nn.Module, role: str) -> bool:
    if isinstance(pattern, type):
        return isinstance(module, pattern)
    return pattern[1:] == role if pattern.startswith("@") else fnmatch.fnmatchcase(name, pattern)
