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
from typing import Any, Literal, cast

from torch import nn

from ..registry import nearest
from .layers import FLOAT_BITS, has_unknown_products, is_quantized, row_of
from .quantizer import MAX_BITS

ROLES = ("first", "last", "shortcut", "inner")
SHORTCUT = re.compile(r"(^|\.)(shortcut|downsample|skip)(\.|$)")
Pattern = str | type[nn.Module]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """What one tensor gets: method, bits, one step per ``tensor`` or ``channel``, the method's options."""

    method: str
    bits: int
    granularity: str = "tensor"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        return f"{self.bits} bit {self.method} per {self.granularity}{options}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """What one layer gets; None leaves a tensor in float.

    Attributes:
        policy: the name of the policy that decided.
        role: ``first``, ``last``, ``shortcut`` or ``inner``.
        weight, bias, input, output: the specs of its tensors.
        input_bits: the bits that its input is counted with in bit-operations, where no input
            quantizer of its own says so (an input quantized by the activation before, an 8-bit image).
        averaged_from: the weight's spec before captures of it were averaged onto the finer grid that
            ``weight`` states; None where it is no average.
    """

    policy: str
    role: str = "inner"
    weight: TensorSpec | None = None
    bias: TensorSpec | None = None
    input: TensorSpec | None = None
    output: TensorSpec | None = None
    input_bits: int = FLOAT_BITS
    averaged_from: TensorSpec | None = None

    def __bool__(self) -> bool:
        """Whether anything is quantized: a tensor of the layer, or the input that it reads."""
        quantized = any(spec is not None for spec in (self.weight, self.bias, self.input, self.output))
        return quantized or self.input_bits < FLOAT_BITS


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a policy says of one layer, before it is known what the layer is.

    Attributes:
        weights, activations: bits, 32 for float.
        method, activation_method: names from ``flatbit list quantizers``.
        granularity: one weight step per ``tensor`` or per output ``channel``.
        weight_options, activation_options: keyword arguments of the method's quantizers.
        input_bits: what the input counts as in bit-operations; None for ``activations``.
        here: quantize activations at this very layer whatever the placement.
    """

    weights: int
    activations: int
    method: str
    activation_method: str
    granularity: str = "tensor"
    weight_options: Mapping[str, Any] = field(default_factory=dict)
    activation_options: Mapping[str, Any] = field(default_factory=dict)
    input_bits: int | None = None
    here: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings that change for the layers a pattern names; an ``optional`` one may name none."""

    pattern: Pattern
    changes: Mapping[str, Any]
    optional: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Which tensor of which layer gets which quantizer.

    Attributes:
        name: the preset it came from.
        base: settings of every layer.
        rules: what changes for which layers, in order.
        placement: activations are quantized at each weighted layer's ``input``, or once at the
            ``output`` of the activation module for all its readers (FAQ, HOL).
        fixed_point: batch-norm scales in 8-bit and biases in 32-bit fixed point (FAQ).
        first, last: names of the layers that read the image and that give the logits; None for the
            first and the last one defined.
    """

    name: str
    base: Settings
    rules: tuple[Rule, ...] = ()
    placement: Literal["input", "output"] = "input"
    fixed_point: bool = False
    first: str | None = None
    last: str | None = None

    def edges(self, *, first: str | None = None, last: str | None = None) -> Policy:
        """The same policy for a model whose layers run in another order than they are defined in."""
        return replace(self, first=first or self.first, last=last or self.last)

    def override(self, pattern: Pattern, **changes: Any) -> Policy:
        """The same policy with one more rule: ``policy.override("layer4.*", weights=4)``.

        Args:
            pattern: a name with wildcards, a module type, ``@first``, ``@last`` or ``@shortcut``.
            changes: ``weights``, ``activations`` (bits, 32 for float), ``method``,
                ``activation_method``, ``granularity``, ``weight_options``, ``activation_options``,
                ``input_bits``, ``here`` (``Settings`` says what each is).

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
        return replace(self, rules=(*self.rules, Rule(pattern, changes)))

    def resolve(self, model: nn.Module) -> dict[str, LayerSpec]:
        """The spec of every layer that the table knows, by name.

        Raises:
            ValueError: a rule that matches no layer.
        """
        rows = {name: row for name, module in model.named_modules() if (row := row_of(module))}
        roles = roles_of(model, self.first, self.last)
        modules = {name: m for name, m in model.named_modules() if name in rows or has_unknown_products(m)}
        self._check_rules(modules, roles)
        return {
            name: self._spec(
                self._settings(name, modules[name], roles.get(name, "")),
                row.kind,
                modules[name],
                roles.get(name, "inner"),
            )
            for name, row in rows.items()
        }

    def keeps_float(self, name: str, module: nn.Module) -> bool:
        """Whether the policy leaves a module that the table does not know in float, weights and activations."""
        settings = self._settings(name, module, "")
        return settings.weights == settings.activations == FLOAT_BITS

    def _settings(self, name: str, module: nn.Module, role: str) -> Settings:
        settings = self.base
        for rule in self.rules:
            if _matches(rule.pattern, name, module, role):
                settings = replace(settings, **rule.changes)
        return settings

    def _spec(self, settings: Settings, kind: str, module: nn.Module, role: str) -> LayerSpec:
        spec = LayerSpec(policy=self.name, role=role)
        multiplied = TensorSpec(method="fixed_point", bits=8, options={"exponent": -4})
        added = TensorSpec(method="fixed_point", bits=32, options={"exponent": -16})
        if kind == "normalization":
            return replace(spec, weight=multiplied, bias=added) if self.fixed_point else spec
        if kind == "activation":
            quantized = self.placement == "output" and (not isinstance(module, nn.Identity) or settings.here)
            return replace(spec, output=_activations(settings)) if quantized else spec
        weight = None
        if settings.weights < FLOAT_BITS:
            options = settings.weight_options
            weight = TensorSpec(
                method=settings.method, bits=settings.weights, granularity=settings.granularity, options=options
            )
        reads = self.placement == "input" or settings.here
        input_bits = settings.activations if settings.input_bits is None else settings.input_bits
        bias = added if self.fixed_point and getattr(module, "bias", None) is not None else None
        activations = _activations(settings) if reads else None
        return replace(spec, weight=weight, bias=bias, input=activations, input_bits=input_bits)

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
    rows = {name: row_of(module) for name, module in model.named_modules()}
    weighted = [name for name, row in rows.items() if row and row.kind in ("convolution", "linear")]
    roles = {name: "shortcut" if SHORTCUT.search(name) else "inner" for name in weighted}
    for name in filter(None, (first, last)):
        if name not in weighted:
            raise ValueError(f"no weighted layer {name!r} to be the first or last: {nearest(name, weighted)}")
    ends = {"last": [last] if last else weighted[-1:], "first": [first] if first else weighted[:1]}
    return roles | {name: role for role, names in ends.items() for name in names}


def _activations(settings: Settings) -> TensorSpec | None:
    if settings.activations >= FLOAT_BITS:
        return None
    return TensorSpec(method=settings.activation_method, bits=settings.activations, options=settings.activation_options)


def _matches(pattern: Pattern, name: str, module: nn.Module, role: str) -> bool:
    if isinstance(pattern, type):
        return isinstance(module, pattern)
    return pattern[1:] == role if pattern.startswith("@") else fnmatch.fnmatchcase(name, pattern)


def spec_of(module: nn.Module) -> LayerSpec | None:
    """The spec a module was quantized by; None for a float module."""
    return cast(LayerSpec, module.spec) if is_quantized(module) else None


def check_bits(what: str, bits: int) -> None:
    """Raise ValueError unless ``bits`` is 1 to 8, or 32 for float."""
    if isinstance(bits, bool) or (bits != FLOAT_BITS and bits not in range(1, MAX_BITS + 1)):
        raise ValueError(f"{what}={bits!r}: expected 1 to {MAX_BITS} bits, or {FLOAT_BITS} for float")
