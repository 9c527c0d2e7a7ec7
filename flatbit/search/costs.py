"""What each choice costs at each width, exactly as ``flatbit.cost`` counts it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..quant.assignment import assign_bits_
from ..quant.cost import Cost, cost
from .space import Space


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """Bit-operations of one image, and bytes."""

    bitops: int = 0
    size_bytes: int = 0

    def __add__(self, other: Price) -> Price:
        return Price(bitops=self.bitops + other.bitops, size_bytes=self.size_bytes + other.size_bytes)

    def __sub__(self, other: Price) -> Price:
        return Price(bitops=self.bitops - other.bitops, size_bytes=self.size_bytes - other.size_bytes)

    def __str__(self) -> str:
        return f"{self.bitops / 1e6:,.3f} M bit-operations, {self.size_bytes:,} bytes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What a model costs, by the widths of its choices.

    Attributes:
        fixed: of all that does not choose.
        choices: of each choice, by its name and width.
    """

    fixed: Price
    choices: Mapping[str, Mapping[int, Price]]

    @classmethod
    def of(cls, model: nn.Module, space: Space, input_shape: tuple[int, ...]) -> Prices:
        """Count a quantized model, which is left as it was, at every width.

        Args:
            model: quantized; calibrated or not.
            space: its choices.
            input_shape: of one image, without the batch.

        Raises:
            ValueError: a width that a layer's method does not have.
        """
        copied, fixed = copy.deepcopy(model), Price()
        found: dict[str, dict[int, Price]] = {choice.name: {} for choice in space.choices}
        for bits in sorted({bits for choice in space.choices for bits in choice.widths}):
            here = [choice for choice in space.choices if bits in choice.widths]
            assign_bits_(copied, {name: (bits, bits) for choice in here for name in choice.layers})
            counted = cost(copied, input_shape)
            for choice in here:
                found[choice.name][bits] = _priced(counted, choice.layers)
            present = [name for choice in space.choices for name in choice.layers]
            fixed = Price(bitops=counted.bitops, size_bytes=counted.size_bytes) - _priced(counted, present)
        return cls(fixed=fixed, choices=found)

    def total(self, bits: Mapping[str, int]) -> Price:
        """Of a width for every choice, by name."""
        return sum((self.choices[name][width] for name, width in bits.items()), self.fixed)

    def range(self) -> tuple[Price, Price]:
        """The least and the most that the model can cost."""
        ends = [[f(prices) for prices in self.choices.values()] for f in (min, max)]
        least, most = (
            sum((self.choices[n][w] for n, w in zip(self.choices, end, strict=True)), self.fixed) for end in ends
        )
        return least, most


def _priced(counted: Cost, names: tuple[str, ...] | list[str]) -> Price:
    rows = [row for row in counted.layers if row.name in names]
    return Price(bitops=sum(row.bitops for row in rows), size_bytes=sum(row.size_bytes for row in rows))
