"""Acting: whether each setting that a policy's rules give decides something of a layer that they name.

A setting is tried: what a layer gets with one value of it and with another is compared, so that whatever
decides what a layer gets is asked, and no second account of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from .policy import Policy, Rule, nameable, roles_of
from .settings import METHOD_SETTINGS, Settings
from .spec import FLOAT_BITS, LayerSpec, TensorSpec
from .table import row_of, slots_of

NORM = TensorSpec(method="fixed_point", bits=8)
TRIED: Mapping[str, tuple[Any, Any]] = {
    "weights": (1, 2),
    "activations": (1, 2),
    "method": ("one", "other"),
    "activation_method": ("one", "other"),
    "granularity": ("tensor", "channel"),
    "weight_options": ({}, {"one": 1}),
    "activation_options": ({}, {"one": 1}),
    "input_bits": (1, 2),
    "placement": ("input", "output"),
    "norm": (None, NORM),
    "bias": (None, NORM),
}
"""Two values of each setting, different wherever it decides anything."""
FLOAT = {"weights": FLOAT_BITS, "activations": FLOAT_BITS}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    """A layer that a rule names: its settings once all rules are read, and what stands in the table of it."""

    name: str
    module: nn.Module
    role: str
    settings: Settings


def check_acting(policy: Policy, model: nn.Module) -> None:
    """Raise ValueError for a setting of a rule that acts on none of the layers that the rule names in a model.

    Both bits given as float ask for one thing, to leave a layer in float, and act where either does. Optional
    rules, a convention's, may find nothing to act on.
    """
    roles = roles_of(model, policy.first, policy.last)
    for rule in policy.rules:
        named = [
            _Named(name=name, module=module, role=role, settings=policy.settings_of(name, module, role))
            for name, module in nameable(model).items()
            if rule.names(name, module, role := roles.get(name, ""))
        ]
        if rule.optional or not named:
            continue
        leaves_float = FLOAT.items() <= rule.changes.items() and any(_acts(key, 32, x) for key in FLOAT for x in named)
        for key, value in rule.changes.items():
            if not (leaves_float and key in FLOAT) and not any(_acts(key, value, layer) for layer in named):
                raise ValueError(_refusal(policy, rule, key, named))


def _acts(key: str, value: Any, layer: _Named) -> bool:
    """Whether a setting decides anything of a layer."""
    if row_of(layer.module) is None:
        return key in FLOAT  # whether it is refused
    one, other = (_spec(layer, key, tried) for tried in TRIED[key])
    if key == "input_bits" and one.input is not None:
        return False  # its own quantizer says how wide it is
    if key == "activations" and value < FLOAT_BITS and layer.role != "first":
        return one.tensors != other.tensors  # else it would only count as what another layer makes
    return one != other


def _spec(layer: _Named, key: str, value: Any) -> LayerSpec:
    row = row_of(layer.module)
    assert row is not None
    return replace(layer.settings, **{key: value}).layer("", layer.module, row, layer.role)


def _refusal(policy: Policy, rule: Rule, key: str, named: list[_Named]) -> str:
    shown = ", ".join(repr(layer.name) for layer in named[:3]) + (f" and {len(named) - 3} more" if named[3:] else "")
    return (
        f"policy {policy.name!r}: {key}={rule.changes[key]!r} of override({rule.pattern!r}) cannot act on {shown}: "
        f"{_why(key, named[0])}"
    )


def _why(key: str, layer: _Named) -> str:
    """Why a setting does nothing to a layer, and what would."""
    row, kind, settings = row_of(layer.module), type(layer.module).__name__, layer.settings
    if row is None:
        return f"{kind} is not in the table of layers: it can only be left in float, weights=32, activations=32"
    if key in ("norm", "bias"):
        return f"{kind} has no such tensor" + (", or its norm= is float" if row.kind == "normalization" else "")
    if row.kind == "normalization":
        return f"{kind} is a normalization: norm= and bias= say what its scale and shift get"
    if key == "weights" or key in METHOD_SETTINGS["weight"]:
        has_weight = bool(slots_of(layer.module, "weight"))
        return "its weights are float: give weights= too" if has_weight else f"{kind} multiplies by no weight"
    if key == "input_bits":
        return "its own input quantizer says it: activations=" if row.macs else f"{kind} multiplies by no weight"
    if settings.activations >= FLOAT_BITS:
        return "its activations are float: give activations= too"
    if row.macs is None:
        return "its output is quantized with placement='output' alone: give that too, or override what reads it"
    return "what it reads was quantized where it was made: override that layer, or give placement='input' too"
