"""Whole numbers in ONNX: codes as uint8, streams as int64, and the arithmetic that both need.

Every code is held as uint8 with a zero point of 0 or 128, and so is every weight. ONNX Runtime multiplies uint8 by
uint8 exactly on every processor; of uint8 by int8, on x86 without VNNI, it adds pairs of products in 16 bits, which
saturate. Numbers of 9 bits, as ``2 code + 1`` at 8, are ``2 h + r``.

``BitShift`` takes unsigned numbers alone: 2^62, a multiple of every divisor here, is added before and taken off after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .onnx_geometry import convolution_attributes, places
from .onnx_graph import LAST, OnnxGraph
from .program import AveragePool, Coding, MaxPool, Product

BIAS = 1 << 62
WHOLE = np.int64


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldCodes:
    """How whole numbers n are held in uint8 u: ``n = u - zero``, or ``n = 2 (u - zero) + 1`` where ``halved``."""

    zero: int
    halved: bool

    @classmethod
    def of(cls, coding: Coding, layer: str) -> HeldCodes:
        """The least that holds them. Raises ValueError where nothing does."""
        zero = 128 if coding.low < 0 else 0
        if -zero <= coding.low and coding.high <= 255 - zero:
            return cls(zero=zero, halved=False)
        odd = bool(coding.low % 2 and coding.high % 2)
        if odd and -2 * zero < coding.low and coding.high < 2 * (256 - zero):
            return cls(zero=zero, halved=True)
        raise ValueError(
            f"layer {layer!r}: codes in [{coding.low}, {coding.high}] do not fit the 8 bits of the form 'integer': "
            "give what it reads fewer bits, or take the form 'qdq'"
        )


class WholeGraph:
    """Integer operations added to a graph."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph

    def along(self, values: Tensor, rank: int) -> Any:
        """Numbers per channel, () or (channels,), int64, shaped to meet (N, channels, ...)."""
        return (values.reshape(-1, *[1] * (rank - 2)) if values.ndim else values).numpy()

    def times(self, x: str, factor: Any, name: str) -> str:
        """``x factor``."""
        return self.graph.on_constant("Mul", x, factor, WHOLE, name)

    def plus(self, x: str, term: Any, name: str) -> str:
        """``x + term``."""
        return self.graph.on_constant("Add", x, term, WHOLE, name)

    def cast(self, x: str, kind: str, name: str) -> str:
        """x as another type, by its name in ONNX."""
        return self.graph.node("Cast", [x], name, to=self.graph.types[kind])

    def whole(self, x: str, held: HeldCodes, name: str) -> str:
        """uint8 codes as the numbers that they hold, int64."""
        x = self.cast(x, "INT64", f"{name}.int64")
        if held.halved:
            return self.plus(self.times(x, 2, f"{name}.twice"), 1 - 2 * held.zero, f"{name}.whole")
        return self.plus(x, -held.zero, f"{name}.whole") if held.zero else x

    def floor_shifted(self, biased: str, shift: int, name: str) -> str:
        """``(n >> shift) + (BIAS >> shift)`` of ``n + BIAS``, int64, with a shift of 1 or more."""
        x = self.cast(biased, "UINT64", f"{name}.unsigned")
        bits = self.graph.constant(f"{name}.bits", shift, np.uint64)
        shifted = self.graph.node("BitShift", [x, bits], f"{name}.shifted", direction="RIGHT")
        return self.cast(shifted, "INT64", f"{name}.signed")

    def product(self, op: Product, x: str, zero: int, name: str) -> str:
        """``sum((x - zero) w)``, int64, of uint8 x."""
        high, low = _parts(op)
        total = self._product(op, x, zero, high, f"{name}.high" if low is not None else name)
        if low is None:
            return total
        rest = self._product(op, x, zero, low, f"{name}.low")
        return self.graph.node("Add", [self.times(total, 2, f"{name}.twice"), rest], name)

    def ones(self, shape: Sequence[int], name: str) -> str:
        """uint8 ones of a shape, which take no room in the file."""
        sizes = self.graph.constant(f"{name}.shape", list(shape), WHOLE)
        return self.graph.node("ConstantOfShape", [sizes], name, value=self.graph.tensor([1], np.uint8))

    def windows(self, x: str, name: str, pool: AveragePool | MaxPool, out: Sequence[int]) -> list[str]:
        """The values at each place of the windows of a pooling, padded already: a result for each place."""
        whole, steps = [0], [1, *pool.stride]
        return [
            self.graph.slice(x, f"{name}.at{i}", whole + starts, [LAST, *ends], steps)
            for i, (starts, ends) in enumerate(places(pool, out))
        ]

    def _product(self, op: Product, x: str, zero: int, weight: Tensor, name: str) -> str:
        graph = self.graph
        middle = 128 if int(weight.min()) < 0 else 0
        linear = op.convolve is F.linear
        held = graph.constant(f"{name}.weight", (weight.T if linear else weight).numpy() + middle, np.uint8)
        zeros = [graph.constant(f"{name}.zero{i}", each, np.uint8) for i, each in enumerate((zero, middle))]
        if linear:
            total = graph.node("MatMulInteger", [x, held, *zeros], f"{name}.int32")
        else:
            kind, attributes = convolution_attributes(op)
            if kind != "Conv":
                raise ValueError(
                    f"layer {op.layer!r}: ONNX has no integer transposed convolution: take the form 'qdq' or 'qonnx'"
                )
            total = graph.node("ConvInteger", [x, held, *zeros], f"{name}.int32", **attributes)
        return self.cast(total, "INT64", name)


def _parts(op: Product) -> tuple[Tensor, Tensor | None]:
    """A weight of 8 bits and None, or h and r of ``2 h + r``; one channel of r where all have the same."""
    weight = op.weight
    if int(weight.min()) >= -128 and int(weight.max()) <= 127:
        return weight, None
    high, low = weight >> 1, weight & 1
    shared = bool((low == 1).all()) and op.geometry.get("groups", 1) == 1
    return high, low[:1] if shared else low
