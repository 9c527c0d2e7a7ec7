"""Policies: which tensor of which layer gets which quantizer. The papers' conventions are presets.

A policy is base settings and ordered rules; a later rule wins. A rule's pattern is a layer's name
with wildcards (``layer4.*``), a module type (``nn.Linear``), or a role: ``@first`` and ``@last`` of
the weighted layers in order of definition, ``@shortcut`` for the convolutions on a residual path.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..registry import Registry, nearest
from ..wrappers import named_modules
from .settings import Settings, check_changes, check_quantizers
from .spec import FLOAT_BITS, LayerSpec
from .table import has_unknown_products, is_weighted, row_of

ROLES = ("first", "last", "shortcut", "inner")
SHORTCUT = re.compile(r"(^|\.)(shortcut|downsample|skip)(\.|$)")
Pattern = str | type[nn.Module]


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings that change for the layers a pattern names; an ``optional`` one may name none, and act on none."""

    pattern: Pattern
    changes: Mapping[str, Any]
    optional: bool = False

    def names(self, name: str, module: nn.Module, role: str) -> bool:
        """Whether the pattern names a layer of this name, type and role."""
        if isinstance(self.pattern, type):
            return isinstance(module, self.pattern)
        if self.pattern.startswith("@"):
            return self.pattern[1:] == role
        return fnmatch.fnmatchcase(name, self.pattern)


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
        """The same policy for a model whose layers run in another order than they are defined in.

        Raises ValueError for what is no name, or where neither is given.
        """
        given = [name for name in (first, last) if name is not None]
        if not given or not all(isinstance(name, str) for name in given):
            raise ValueError(f"first_last(first={first!r}, last={last!r}): expected the name of one layer, or two")
        return replace(self, first=first or self.first, last=last or self.last)

    def override(self, pattern: Pattern, **changes: Any) -> Policy:
        """The same policy with one more rule: ``policy.override("layer4.*", weights=4)``.

        Args:
            pattern: a name with wildcards, a module type, ``@first``, ``@last`` or ``@shortcut``.
            changes: ``weights``, ``activations`` (bits, 32 for float), ``method``, ``placement`` and whatever else
                ``Settings`` has.

        Raises:
            ValueError: no setting at all; a setting, option or an ``@`` role that does not exist; bits, a
                granularity or an option's value that no method has. One that acts on none of the layers it names is
                found once there is a model (``quantize_``).
        """
        if not isinstance(pattern, str | type):
            raise ValueError(f"override({pattern!r}): expected a name with wildcards, a module type or an @ role")
        if isinstance(pattern, str) and pattern.startswith("@") and pattern[1:] not in ROLES:
            raise ValueError(f"override({pattern!r}): no such role: {nearest(pattern, [f'@{role}' for role in ROLES])}")
        if not changes:
            raise ValueError(f"override({pattern!r}): nothing to change: give a setting, as weights=4")
        check_changes(f"override({pattern!r})", changes)
        earlier = [replace(self.base, **{**rule.changes, **changes}) for rule in self.rules]
        check_quantizers(str(pattern), [replace(self.base, **changes), *earlier], changes)
        return replace(self, rules=(*self.rules, Rule(pattern, changes)))

    def resolve(self, model: nn.Module) -> dict[str, LayerSpec]:
        """The spec of every layer that the table knows, by name.

        Raises:
            ValueError: a rule that matches no layer.
        """
        roles = roles_of(model, self.first, self.last)
        modules = nameable(model)
        self._check_rules(modules, roles)
        return {
            name: self.settings_of(name, module, roles.get(name, "")).layer(self.name, module, row, roles.get(name, ""))
            for name, module in modules.items()
            if (row := row_of(module)) is not None
        }

    def keeps_float(self, name: str, module: nn.Module) -> bool:
        """Whether the policy leaves a module that the table does not know in float, weights and activations."""
        settings = self.settings_of(name, module, "")
        return settings.weights == settings.activations == FLOAT_BITS

    def places_outputs(self) -> bool:
        """Whether activations are quantized where they are made, for all layers that are not told otherwise."""
        return self.base.placement == "output" and self.base.activations < FLOAT_BITS

    def settings_of(self, name: str, module: nn.Module, role: str) -> Settings:
        """What it says of one layer, by name, type and role (``roles_of``; empty for a layer without)."""
        settings = self.base
        for rule in self.rules:
            if rule.names(name, module, role):
                settings = replace(settings, **rule.changes)
        return settings

    def _check_rules(self, modules: dict[str, nn.Module], roles: dict[str, str]) -> None:
        for rule in self.rules:
            if rule.optional or (isinstance(rule.pattern, str) and rule.pattern.startswith("@")):
                continue  # a model need not have shortcuts
            if not any(rule.names(name, modules[name], roles.get(name, "")) for name in modules):
                raise ValueError(
                    f"policy {self.name!r}: no layer matches {rule.pattern!r}: {nearest(str(rule.pattern), modules)}"
                )


def nameable(model: nn.Module) -> dict[str, nn.Module]:
    """What a rule can say something of, by name: modules of the table, and those with products unknown to it."""
    return {name: module for name, module in named_modules(model) if row_of(module) or has_unknown_products(module)}


POLICIES: Registry[Callable[[int, int], Policy]] = Registry("policy", "flatbit.quant.quantizers")
"""The papers' conventions, from bits of weights and activations; each in the file of its method."""


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
    """A policy of one method throughout, but for its rules; ``settings`` as ``Settings`` has them.

    The rules are a convention for any model, so they are optional: one may name or change nothing here.
    """
    base = Settings(
        weights=weights,
        activations=activations,
        method=method,
        activation_method=activation_method or method,
        **settings,
    )
    kept = (KEPT_IDENTITIES,) if base.placement == "output" else ()
    return Policy(name=method, base=base, rules=(*kept, *(replace(rule, optional=True) for rule in rules)))
