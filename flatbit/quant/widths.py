"""The bits of many layers in one short word, for labels and tables."""

from __future__ import annotations

import re

FLOAT = "float"


def short_bits(stated: str) -> str:
    """``mixed W2-6/A3-5`` for ``W2/A3, W4/A3, W6/A5``: the least and the most of each; one width as it is stated.

    Where some layers are float beside them, ``+ float`` says so.

    Args:
        stated: as a ``Convention`` has them, separated by commas; show that full list where there is room.
    """
    several = stated.split(", ")
    pairs = [match.groups() for each in several if (match := re.fullmatch(r"W(\d+)/A(\d+)", each))]
    if len(several) == 1 or not pairs:
        return stated
    weights, activations = (sorted({int(width) for width in widths}) for widths in zip(*pairs, strict=True))
    word = f"W{_range(weights)}/A{_range(activations)}"
    return ("mixed " if len(pairs) > 1 else "") + word + (f" + {FLOAT}" if len(pairs) < len(several) else "")


def _range(widths: list[int]) -> str:
    return str(widths[0]) if len(widths) == 1 else f"{widths[0]}-{widths[-1]}"
