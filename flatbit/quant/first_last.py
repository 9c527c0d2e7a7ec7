"""The first and the last layer: the rules that most conventions have for them."""

from __future__ import annotations

from typing import Any

from .policy import Rule
from .spec import FLOAT_BITS

FIRST_LAST = ("@first", "@last")


def at_8_bits(weights: int, activations: int, **more: Any) -> tuple[Rule, ...]:
    """First and last layer at 8 bits, in whatever is quantized at all."""
    return at_bits(8 if weights < FLOAT_BITS else None, 8 if activations < FLOAT_BITS else None, **more)


def at_bits(weights: int | None, activations: int | None, **more: Any) -> tuple[Rule, ...]:
    """First and last layer at bits of their own; None leaves those of the policy."""
    changes = {"weights": weights, "activations": activations}
    changes = {key: bits for key, bits in changes.items() if bits is not None} | more
    return tuple(Rule(pattern, changes) for pattern in FIRST_LAST)


def in_float(*patterns: str) -> tuple[Rule, ...]:
    """First and last layer in float, or the layers of other patterns."""
    kept = {"weights": FLOAT_BITS, "activations": FLOAT_BITS}
    return tuple(Rule(pattern, kept) for pattern in patterns or FIRST_LAST)
