"""Policies by name: the papers' conventions, and any method with first and last layers at 8 bits.

What a paper leaves in float, keeps at 8 bits or quantizes elsewhere moves its numbers as much as
its method does, so each method's file writes its convention down, under the name that results carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..registry import PLUGIN_HINT, nearest
from .first_last import at_bits
from .policy import KEPT_IDENTITIES, POLICIES, Policy, Rule, base_policy
from .quantizer import Quantizer
from .quantizers import METHODS
from .settings import METHOD_SETTINGS, Settings, check_bits, check_changes, check_quantizers
from .spec import FLOAT_BITS

Preset = Callable[[int, int], Policy]


def policy(
    name: str,
    *,
    weights: int = FLOAT_BITS,
    activations: int = FLOAT_BITS,
    activation_method: str | None = None,
    granularity: Literal["tensor", "channel"] | None = None,
    placement: Literal["input", "output"] | None = None,
    weight_options: Mapping[str, Any] | None = None,
    activation_options: Mapping[str, Any] | None = None,
) -> Policy:
    """A paper's convention at given bit-widths: ``policy("uniq", weights=2, activations=2)``.

    Args:
        name: a preset (``preset_names()``), or a quantization method, whose first and last layer are
            then kept at 8 bits, or at the most that it has.
        weights, activations: bits, 1 to 8; 32 leaves them in float.
        activation_method: quantize activations with another method.
        granularity, placement, weight_options, activation_options: in place of the preset's.

    Raises:
        ValueError: an unknown name; bits, a granularity or an option that the method does not have; settings of
            what is left in float; nothing to quantize.
    """
    check_bits("weights", weights)
    check_bits("activations", activations)
    if weights == activations == FLOAT_BITS:
        raise ValueError(f"policy({name!r}): weights and activations are both float: give weights= or activations=")
    given = {
        "activation_method": activation_method,
        "granularity": granularity,
        "placement": placement,
        "weight_options": weight_options,
        "activation_options": activation_options,
    }
    given = {key: value for key, value in given.items() if value is not None}
    check_changes(f"policy({name!r})", given)
    made = replace(preset(name, activation_method)(weights, activations), name=name)
    changes = {key: value for key, value in given.items() if key != "placement"}
    base = replace(made.base, **changes)
    _check_method(base.method, "weights", weights)
    _check_method(base.activation_method, "activations", activations)
    _check_acting(name, base, given)
    check_quantizers("*", [base], given)
    made = replace(made, base=base)
    return made if placement in (None, base.placement) else _placed(made, placement)


def preset_names() -> list[str]:
    """Every name that ``policy`` takes, sorted."""
    return sorted({*POLICIES.names(), *(name for name in METHODS.names() if METHODS.get(name).public)})


def preset(name: str, activation_method: str | None = None) -> Preset:
    """The preset of that name; any method has one, which another may serve for activations. Raises ValueError."""
    if name not in preset_names():
        raise ValueError(f"unknown policy {name!r}: {nearest(name, preset_names())} {PLUGIN_HINT}")
    return POLICIES.get(name) if name in POLICIES.names() else _usual(name, activation_method or name)


def _usual(name: str, activation_method: str) -> Preset:
    weight, activation = METHODS.get(name).weights, METHODS.get(activation_method).activations

    def make(weights: int, activations: int) -> Policy:
        """First and last layer 8 bits, or the most that the method has."""
        first_last = at_bits(_widest(weight, weights), _widest(activation, activations))
        return base_policy(name, weights, activations, first_last)

    return make


def _widest(quantizer: type[Quantizer] | None, bits: int) -> int | None:
    """The bits of first and last layers; None where nothing is quantized, or by another method."""
    return None if bits == FLOAT_BITS or quantizer is None else min(8, max(quantizer.supported_bits))


def _placed(made: Policy, placement: Literal["input", "output"]) -> Policy:
    """The policy with activations quantized elsewhere; its rules then say nothing of placement."""
    rules = [Rule(rule.pattern, _without_placement(rule.changes), rule.optional) for rule in made.rules]
    rules = [rule for rule in rules if rule.changes]
    kept = [KEPT_IDENTITIES] if placement == "output" else []
    return replace(made, base=replace(made.base, placement=placement), rules=(*kept, *rules))


def _without_placement(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in changes.items() if key != "placement"}


def _check_acting(name: str, base: Settings, given: Mapping[str, Any]) -> None:
    """Raise ValueError for settings of weights or activations that are float."""
    for bits, what, keys in (
        (base.weights, "weights", METHOD_SETTINGS["weight"]),
        (base.activations, "activations", METHOD_SETTINGS["input"] | {"placement"}),
    ):
        for key in given:
            if key in keys and bits >= FLOAT_BITS:
                raise ValueError(
                    f"policy({name!r}): {key}={given[key]!r} cannot act, for {what} are float: leave it out, or give "
                    f"{what}= (.override(...) takes it too, for the layers that it quantizes)"
                )


def _check_method(name: str, what: Literal["weights", "activations"], bits: int) -> None:
    if bits == FLOAT_BITS:
        return
    quantizer = getattr(METHODS.get(name), what)
    if quantizer is None:
        others = [other for other in METHODS.names() if getattr(METHODS.get(other), what) is not None]
        keyword = "activation_method" if what == "activations" else "another policy"
        raise ValueError(f"method {name!r} does not quantize {what}: give {keyword}, one of {', '.join(others)}")
    if bits not in quantizer.supported_bits:
        reason = f" ({quantizer.refusal})" if quantizer.refusal else ""
        raise ValueError(
            f"method {name!r} quantizes {what} to {_span(quantizer.supported_bits)} bits, got {bits}{reason}"
        )


def _span(bits: Sequence[int]) -> str:
    return f"{min(bits)}-{max(bits)}"
