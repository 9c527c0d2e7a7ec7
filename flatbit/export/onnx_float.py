"""A program as ONNX in real numbers: what ``qdq`` and ``qonnx`` share. A form says how quantizers and weights look."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .onnx_geometry import convolution_attributes, pool_attributes
from .onnx_graph import OnnxGraph
from .program import (
    INPUT,
    Affine,
    AveragePool,
    Clamp,
    Concat,
    Flatten,
    FloatProduct,
    MaxPool,
    Operation,
    Pad,
    Product,
    Program,
    Quantize,
    Resize,
    Slice,
    Sum,
)
from .shapes import shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A quantizer of activations in numbers that a file can hold: ``clip(round(x / step - shift), low, high)``.

    ``even_from_low`` counts codes from the lowest where that is odd, so that rounding half to even, the only rule of
    ONNX, is its rule. ``away`` has no such form.

    Attributes:
        shift: in steps: the offset, and the code that is counted from.
    """

    step: float
    shift: float
    low: int
    high: int

    @classmethod
    def of(cls, op: Quantize) -> Held:
        """How a quantizer is held."""
        grid = op.grid
        origin = grid.low if op.ties == "even_from_low" and grid.low % 2 else 0
        step, shift = float(grid.step), float(grid.offset) + origin
        return cls(step=step, shift=shift, low=grid.low - origin, high=grid.high - origin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Width:
    """A range of whole numbers, and the least that holds it.

    Attributes:
        bits: of two's complement, or unsigned where none is negative.
        narrow: whether the lowest number alone is left out.
        exact: whether ``bits`` and ``narrow`` say the range; else a clip has to.
    """

    signed: bool
    bits: int
    narrow: bool
    exact: bool

    @classmethod
    def of(cls, low: int, high: int) -> Width:
        """The width of a range."""
        if low >= 0:
            bits = max(1, high.bit_length())
            return cls(signed=False, bits=bits, narrow=False, exact=(low, high) == (0, 2**bits - 1))
        bits = max(-low - 1, high).bit_length() + 1
        top = 2 ** (bits - 1) - 1
        return cls(signed=True, bits=bits, narrow=low == -top, exact=high == top and low in (-top - 1, -top))


class FloatForm(ABC):
    """The graph of a program, operation by operation; abstract.

    Attributes:
        shapes: of each result, for a batch of one.
        values: name in the graph of each result.
        readers: of each result.
    """

    def __init__(self, program: Program, graph: OnnxGraph) -> None:
        self.program, self.graph = program, graph
        self.shapes = shapes(program)
        self.values = {INPUT: INPUT}
        self.readers = program.readers()

    @abstractmethod
    def quantized(self, op: Quantize, x: str) -> str:
        """Add a quantizer of activations: x to the values that its codes stand for."""

    @abstractmethod
    def coded_weight(self, op: Product) -> str:
        """Add a weight on its grid, of the shape of ``op.weight``."""

    def sources(self, op: Operation) -> list[Operation]:
        """The operations that give what an operation reads."""
        return [other for other in self.program if other.name in op.inputs]

    def build(self, batch: int | str) -> None:
        """Add everything: ``input``, float32, to ``logits``, float32."""
        graph = self.graph
        kind = graph.types["FLOAT"]
        graph.input = (INPUT, kind, [batch, *self.program.input_shape])
        for op in self.program:
            self.values[op.name] = self._operation(op, [self.values[name] for name in op.inputs])
        output = self.program.output
        graph.renamed(self.values[output], "logits")
        graph.outputs.append(("logits", kind, [batch, *self.shapes[output][1:]]))

    def _operation(self, op: Operation, x: list[str]) -> str:
        graph, name = self.graph, op.name
        if isinstance(op, Quantize):
            return self.quantized(op, x[0])
        if isinstance(op, Product):
            return self.product(op, x[0])
        if isinstance(op, Affine):
            return self._affine(op, x[0])
        if isinstance(op, Sum):
            return graph.node("Add", x, name)
        if isinstance(op, Concat):
            return graph.node("Concat", x, name, axis=1)
        if isinstance(op, Resize):
            return self._resized(op, x[0])
        if isinstance(op, Clamp):
            return self.clipped(x[0], name, op.low, op.high)
        if isinstance(op, AveragePool):
            if op.kernel is None:
                return graph.node("GlobalAveragePool", x, name)
            return graph.node("AveragePool", x, name, kernel_shape=op.kernel, strides=op.stride)
        if isinstance(op, MaxPool):
            size, out = self.shapes[op.inputs[0]][2:], self.shapes[name][2:]
            return graph.node("MaxPool", x, name, **pool_attributes(op, size, out))
        if isinstance(op, Slice):
            return graph.cut(x[0], name, op.index)
        if isinstance(op, Pad):
            return graph.pad(x[0], name, op.widths, len(self.shapes[name]), np.float32(0))
        assert isinstance(op, Flatten)
        return graph.node("Flatten", x, name)

    def clipped(self, x: str, name: str, low: float, high: float) -> str:
        """Add ``min(max(x, low), high)``."""
        if low == 0 and math.isinf(high):
            return self.graph.node("Relu", [x], name)
        ends = {"low": low, "high": high}.items()
        parts = ["" if math.isinf(end) else self.graph.constant(f"{name}.{key}", np.float32(end)) for key, end in ends]
        return self.graph.node("Clip", [x, *parts], name)

    def product(self, op: Product, x: str) -> str:
        """Add a convolution or linear layer, without its bias."""
        floating = isinstance(op, FloatProduct) and op.operand == "weight"
        weight = self.graph.constant(f"{op.name}.weight", numpy32(op.weight)) if floating else self.coded_weight(op)
        inputs = [x, weight]
        if op.convolve is F.linear:
            return self.graph.node("Gemm", inputs, op.name, transB=1)
        kind, attributes = convolution_attributes(op)
        return self.graph.node(kind, inputs, op.name, **attributes)

    def _resized(self, op: Resize, x: str) -> str:
        """Two products with the shares: what ``Resize`` computes, whatever its modes are called where it is read."""
        graph, name = self.graph, op.name
        rows = graph.constant(f"{name}.rows", numpy32(op.rows / op.denominator))
        return graph.on_constant(
            "MatMul", graph.node("MatMul", [rows, x], f"{name}.tall"), numpy32(op.columns.T), None, name
        )

    def _affine(self, op: Affine, x: str) -> str:
        """A bias, too, is added by a node of its own: ONNX Runtime rounds a layer's bias to the step of its sums."""
        axes = [1] * (len(self.shapes[op.name]) - 2)
        for kind, values, nothing in (("Mul", op.scale, 1), ("Add", op.shift, 0)):
            if not bool((values == nothing).all()):
                shaped = values.reshape(-1, *axes) if values.ndim else values
                x = self.graph.on_constant(kind, x, numpy32(shaped), None, f"{op.name}.{kind.lower()}")
        return x


def numpy32(values: Tensor) -> Any:
    """A tensor as numpy's float32."""
    return values.float().numpy()
