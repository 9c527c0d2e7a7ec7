"""Policies by name: the papers' conventions, and any method with first and last layers at 8 bits.

What a paper leaves in float, keeps at 8 bits or quantizes elsewhere moves its numbers as much as
its method does, so each method's file writes its convention down, under the name that results carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

from ..registry import PLUGIN_HINT, nearest
from .edges import with_edges
from .first_last import at_bits
from .policy import KEPT_IDENTITIES, POLICIES, Policy, Rule, base_policy
from .quantizer import Quantizer
from .quantizers import METHODS
from .settings import METHOD_SETTINGS, Settings, check_bits, check_changes, check_quantizers
from .spec import FLOAT_BITS

Preset = Callable[[int, int], Policy]


class Choices(TypedDict, total=False):
    """What ``policy`` may be told beside the bits, each in place of what the preset says; None is as if not given."""

    activation_method: str | None
    granularity: Literal["tensor", "channel"] | None
    placement: Literal["input", "output"] | None
    weight_options: Mapping[str, Any] | None
    activation_options: Mapping[str, Any] | None
    first_last_bits: int | None
    image_bits: int | None


EDGES = ("first_last_bits", "image_bits")


def policy(
    name: str, *, weights: int = FLOAT_BITS, activations: int = FLOAT_BITS, **choices: Unpack[Choices]
) -> Policy:
    """A paper's convention at given bit-widths: ``policy("uniq", weights=2, activations=2)``.

    With ``first_last_bits=8, image_bits=8`` every product has integer operands, whatever the preset keeps in float:
    the convention of what is deployed on integers.

    Args:
        name: a preset (``preset_names()``), or a quantization method, whose first and last layer are
            then kept at 8 bits, or at the most that it has.
        weights, activations: bits, 1 to 8; 32 leaves them in float.
        choices: in place of the preset's:
            ``activation_method``: quantize activations with another method;
            ``granularity``, ``placement``, ``weight_options``, ``activation_options``: as ``Settings`` has them;
            ``first_last_bits``: of the first layer's weights, of the last layer's weights and input, and of what
            else the preset keeps in float (1-bit UNIQ's shortcuts); 1 to 8, 32 for float;
            ``image_bits``: of the first layer's input, likewise. Weights or activations that the whole policy leaves
            in float stay so. Where the method lacks the width, or levels for images of either sign (XNOR, DoReFa),
            ``uniq`` serves there.

    Raises:
        ValueError: an unknown name or choice; bits, a granularity or an option that the method does not have;
            settings of what is left in float; nothing to quantize.
    """
    check_bits("weights", weights)
    check_bits("activations", activations)
    if weights == activations == FLOAT_BITS:
        raise ValueError(f"policy({name!r}): weights and activations are both float: give weights= or activations=")
    given = {key: value for key, value in choices.items() if value is not None}
    edges = _edges(name, given)
    check_changes(f"policy({name!r})", given)
    made = replace(preset(name, choices.get("activation_method"))(weights, activations), name=name)
    base = replace(made.base, **{key: value for key, value in given.items() if key != "placement"})
    _check_method(base.method, "weights", weights)
    _check_method(base.activation_method, "activations", activations)
    _check_acting(name, base, given | edges)
    check_quantizers("*", [base], given)
    made, placement = replace(made, base=base), choices.get("placement")
    made = made if placement in (None, base.placement) else _placed(made, placement)
    return with_edges(made, edges.get("first_last_bits"), edges.get("image_bits"))


def _edges(name: str, given: dict[str, Any]) -> dict[str, int]:
    """Take the bits of the edges out of what is given. Raises ValueError for them, and for what nobody knows."""
    for key in given:
        if key not in Choices.__annotations__:
            raise ValueError(f"policy({name!r}): unknown setting {key!r}: {nearest(key, Choices.__annotations__)}")
    edges = {key: given.pop(key) for key in EDGES if key in given}
    for key, bits in edges.items():
        check_bits(f"policy({name!r}): {key}", bits)
    return edges


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
        (base.activations, "activations", METHOD_SETTINGS["input"] | {"placement", "image_bits"}),
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
        raise ValueError(f"method {name!r} quantizes {what} to {_span(quantizer.supported_bits)}, got {bits}{reason}")


def _span(bits: Sequence[int]) -> str:
    return f"{min(bits)}-{max(bits)} bits" if len(bits) > 1 else "1 bit" if bits[0] == 1 else f"{bits[0]} bits"
