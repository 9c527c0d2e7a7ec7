"""Edges of any bits: first layer, last layer and image, so that every product of a net has integer operands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .activation import ActivationQuantizer
from .first_last import FIRST_LAST
from .policy import Policy, Rule
from .quantizer import Quantizer
from .quantizers import METHODS
from .settings import Settings
from .spec import FLOAT_BITS

ANY_WIDTH = "uniq"
"""The method that has every width, for weights and for inputs of either sign."""


def with_edges(made: Policy, first_last_bits: int | None, image_bits: int | None) -> Policy:
    """The policy with other bits at its edges, in what it quantizes at all; None leaves those that it has.

    Args:
        first_last_bits: of the first layer's weights, the last layer's weights and input, and those of whatever
            else its convention keeps in float (1-bit UNIQ's shortcuts).
        image_bits: of the first layer's input.

    Where the policy's method lacks the width, or at the image one of the signs, ``uniq`` takes its place.
    """
    rules: list[Rule] = []
    if first_last_bits is not None:
        weights = _weights(made.base, first_last_bits)
        both = weights | _inputs(made.base, first_last_bits, image=False)
        rules = [Rule(pattern, both) for pattern in (*_kept_float(made), "@last")] + [Rule("@first", weights)]
    if image_bits is not None:
        rules.append(Rule("@first", _inputs(made.base, image_bits, image=True)))
    added = (replace(rule, optional=True) for rule in rules if rule.changes)
    return replace(made, rules=(*made.rules, *added))


def _kept_float(made: Policy) -> list[Any]:
    """The patterns that the policy leaves in float, beside the first and last layer."""
    widths = [(rule.pattern, [rule.changes.get(key) for key in ("weights", "activations")]) for rule in made.rules]
    return [pattern for pattern, bits in widths if FLOAT_BITS in bits and pattern not in FIRST_LAST]


def _weights(base: Settings, bits: int) -> dict[str, Any]:
    if base.weights == FLOAT_BITS:
        return {}
    made = METHODS.get(base.method).weights
    other = {} if _has(made, bits) else {"method": ANY_WIDTH, "weight_options": {}}
    return {"weights": bits} | other


def _inputs(base: Settings, bits: int, *, image: bool) -> dict[str, Any]:
    if base.activations == FLOAT_BITS:
        return {}
    made = METHODS.get(base.activation_method).activations
    fits = _has(made, bits) and (not image or bits == FLOAT_BITS or _takes_either_sign(made, bits))
    other = {} if fits else {"activation_method": ANY_WIDTH, "activation_options": {}}
    return {"activations": bits, "placement": "input", "input_bits": None} | other


def _has(made: type[Quantizer] | None, bits: int) -> bool:
    return bits == FLOAT_BITS or (made is not None and bits in made.supported_bits)


def _takes_either_sign(made: type[Quantizer] | None, bits: int) -> bool:
    """Whether it quantizes images that are normalised, and those that are never negative."""
    if made is None or not made.takes_unsigned:
        return False
    return not issubclass(made, ActivationQuantizer) or bits in made.signed_bits
