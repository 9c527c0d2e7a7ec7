"""Arguments that users give to data sets: checked before anything is computed with them."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise ValueError where a value is no whole number, or less than it may be."""
    if not _is_whole(value) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number, at least {least}")


def check_sides(name: str, value: Any) -> None:
    """Raise ValueError where a value is no (height, width)."""
    sides = value if isinstance(value, tuple | list) and len(value) == 2 else (0, 0)
    if not all(_is_whole(side) and side > 0 for side in sides):
        raise ValueError(f"{name}={value!r}: expected (height, width), whole numbers of at least 1")


def per_channel(name: str, values: Any) -> tuple[float, ...]:
    """A mean or std as floats. Raises ValueError where it is no sequence of finite numbers."""
    try:
        numbers = () if isinstance(values, str) else tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name}={values!r}: expected a list of finite numbers, one of each per channel")
    return numbers


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
