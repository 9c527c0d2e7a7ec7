"""Budgets: bit-operations of one image, bytes, or both, as ``392M-bitops``, ``60kB``, ``3bits``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .costs import Price, Prices
from .space import Space

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
FORM = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[kKMG]?)(?P<kind>-?bitops|B|bytes|-?bits?)")
EXPECTED = "expected as 392M-bitops, 60kB, 3bits (what the uniform net of 3 bits costs), or several, with commas"


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a net may cost at most; None for what does not count.

    Raises:
        ValueError: neither.
    """

    bitops: int | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.bitops is None and self.size_bytes is None:
            raise ValueError(f"a budget of nothing: {EXPECTED}")

    @classmethod
    def parse(cls, text: str, prices: Prices, space: Space) -> Budget:
        """Read a budget; ``3bits`` is the bit-operations of the uniform net. Raises ValueError."""
        found: dict[str, int] = {}
        for part in text.split(","):
            match = FORM.fullmatch(part.strip())
            if match is None:
                raise ValueError(f"--budget {text}: {part.strip()!r}: {EXPECTED}")
            number = float(match["number"]) * UNITS[match["unit"].replace("K", "k")]
            kind = match["kind"].lstrip("-")
            if kind.startswith("bit") and kind != "bitops":
                name, number = "bitops", prices.total(space.uniform(_width(text, match, space))).bitops
            else:
                name = "bitops" if kind == "bitops" else "size_bytes"
            if name in found:
                raise ValueError(f"--budget {text}: two budgets of one kind: {EXPECTED}")
            found[name] = round(number)
        return cls(**found)

    def check(self, prices: Prices) -> None:
        """Raise ValueError, with the range, where no assignment keeps to it."""
        least, most = prices.range()
        for name, words in (("bitops", "bit-operations"), ("size_bytes", "bytes")):
            asked, low, high = (getattr(each, name) for each in (self, least, most))
            if asked is not None and asked < low:
                raise ValueError(f"a budget of {asked:,} {words}: this net takes {low:,} at least, {high:,} at most")

    def holds(self, price: Price) -> bool:
        """Whether a price keeps to it."""
        return all(asked is None or paid <= asked for asked, paid in self.limits(price).values())

    def limits(self, price: Price) -> Mapping[str, tuple[int | None, int]]:
        """Asked and paid, by name."""
        return {"bitops": (self.bitops, price.bitops), "size_bytes": (self.size_bytes, price.size_bytes)}

    def __str__(self) -> str:
        parts = [f"{self.bitops / 1e6:,.3f} M bit-operations"] if self.bitops is not None else []
        parts += [f"{self.size_bytes:,} bytes"] if self.size_bytes is not None else []
        return ", ".join(parts)


def _width(text: str, match: re.Match[str], space: Space) -> int:
    """The width of a budget of so many bits. Raises ValueError for one that no choice has."""
    found = {str(bits): bits for bits in space.widths}.get(f"{match['number']}{match['unit']}")
    if found is None:
        raise ValueError(f"--budget {text}: a uniform net has {' or '.join(map(str, space.widths))} bits here")
    return found
