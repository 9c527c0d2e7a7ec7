"""Options of quantizers, checked where they are given: a wrong one is an error, not another method."""

from __future__ import annotations

from typing import Any

from .site import Site


def one_of(site: Site, option: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """``value``, if it is one of the words ``allowed``. Raises ValueError."""
    if value not in allowed:
        raise ValueError(f"{site}: {option}={value!r}: expected {' or '.join(map(repr, allowed))}")
    return value


def one_of_or_positive(site: Site, option: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """``value``, if it is one of the words ``allowed`` or a positive finite number. Raises ValueError."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")
    if not number and value not in allowed:
        words = "".join(f"{word!r} or " for word in allowed)
        raise ValueError(f"{site}: {option}={value!r}: expected {words}a positive number")
    return value
