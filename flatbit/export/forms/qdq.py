"""Quantize and dequantize: the network in float, with QuantizeLinear and DequantizeLinear around what is quantized.

Codes are held in 2, 4 or 8 bits, the least that their width fits (INT2 at opset 25, INT4 at 21), or all in 8; those
of activations always in 8 where others than products read them, since ONNX Runtime gives such operations the codes
themselves and then has none for short ones. A width between has a clip. A mid-rise grid, ``step (code + 1/2)``, has no
integer zero point. Activations have half a step subtracted before and added after; so have LSQ+'s, with its offset.
Weights are held as ``2 code + 1`` at half the step where their container has the bit to spare (1, 3, 5, 6 and 7 bits,
and all of these in 8), else as codes, with half a step added after.

QuantizeLinear rounds a tie to even. That is the rule of ``even`` and, as it is counted here, of ``even_from_low``; a
quantizer whose ties go ``away`` from zero differs where a value lies exactly half way. Dividing by a step after
subtracting may also round otherwise than the model does, where a value lies within float32's error of a tie.

The larger of a value and float32's lowest, which is the value, stands where a runtime would compute something else.
ONNX Runtime rounds a layer's float weight to 8 bits where the layer reads codes and gives codes. OpenVINO takes what
is added to codes for an integer zero point.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..onnx_float import FloatForm, Held, Width, numpy32
from ..onnx_graph import OnnxGraph
from ..program import MOVING, FloatProduct, Operation, Product, Program, Quantize
from . import FORMS, Request

OPSETS = {2: 25, 4: 21, 8: 0}
"""The first opset that has a container, by its bits."""
CONTAINERS = ("bits", "int8")
LOWEST = np.finfo(np.float32).min


class _Qdq(FloatForm):
    def __init__(self, program: Program, graph: OnnxGraph, least: int) -> None:
        super().__init__(program, graph)
        self._least = least
        self._bits = {op.name: self._held(op) for op in program if isinstance(op, Quantize)}

    def clipped(self, x: str, name: str, low: float, high: float) -> str:
        """As any form's, but without Clip where codes are short: ONNX Runtime fuses it with what follows, and fails."""
        if min(self._bits.values(), default=8) == 8 or (low == 0 and math.isinf(high)):
            return super().clipped(x, name, low, high)
        for kind, end in (("Max", low), ("Min", high)):
            if not math.isinf(end):
                x = self.graph.on_constant(kind, x, np.float32(end), None, f"{name}.{kind.lower()}")
        return x

    def quantized(self, op: Quantize, x: str) -> str:
        held, name, graph = Held.of(op), op.name, self.graph
        width, bits = Width.of(held.low, held.high), self._bits[op.name]
        shift = np.float32(held.shift * held.step)
        if held.shift:
            x = graph.on_constant("Sub", x, shift, None, f"{name}.shifted")
        if not width.exact or width.narrow or width.bits != bits:
            x = self.clipped(x, f"{name}.clipped", held.step * held.low, held.step * held.high)
        step = graph.constant(f"{name}.step", np.float32(held.step))
        zero = graph.constant(f"{name}.zero", 0, _kind(bits, width.signed))
        codes = graph.node("QuantizeLinear", [x, step, zero], f"{name}.codes", since=OPSETS[bits])
        y = graph.node("DequantizeLinear", [codes, step, zero], name, since=OPSETS[bits])
        return self._kept(graph.on_constant("Add", y, shift, None, f"{name}.moved")) if held.shift else y

    def product(self, op: Product, x: str) -> str:
        """As any form's, but the weight stays in float where it is float."""
        return super().product(op, self._kept(x) if isinstance(op, FloatProduct) and self._coded(op) else x)

    def _coded(self, op: Operation) -> bool:
        """Whether an operation reads codes, moved or not."""
        return any(isinstance(s, Quantize) or (isinstance(s, MOVING) and self._coded(s)) for s in self.sources(op))

    def _kept(self, x: str) -> str:
        """The same values, by a node that no runtime takes off or moves codes through."""
        return self.graph.on_constant("Max", x, LOWEST, None, f"{x}.kept")

    def coded_weight(self, op: Product) -> str:
        name, codes, scale = f"{op.name}.weight", op.weight, op.scale
        bits = self._container(op.bits)
        moved = op.doubled and bits < self._container(op.bits + 1)
        if moved:
            codes, scale = (codes - 1) // 2, scale * 2
        signed = int(codes.max()) < 2 ** (bits - 1)
        held = self.graph.constant(name, codes.numpy(), _kind(bits, signed))
        weight = self._stepped(op, name, held, scale, OPSETS[bits])
        if moved:
            half = numpy32(op.per_weight(op.scale))
            weight = self.graph.on_constant("Add", weight, half, None, f"{name}.moved")
        return weight

    def _stepped(self, op: Product, name: str, held: str, scale: Any, since: int) -> str:
        """Codes times their steps, one for each output channel."""
        graph, per = self.graph, numpy32(scale)
        if (per == per[0]).all():
            step = graph.constant(f"{name}.step", per[0])
            return graph.node("DequantizeLinear", [held, step], f"{name}.value", since=since)
        if op.groups == 1:
            step, axis = graph.constant(f"{name}.step", per), op.channel_axis
            return graph.node("DequantizeLinear", [held, step], f"{name}.value", since=since, axis=axis)
        one = graph.constant(f"{name}.one", np.float32(1))
        whole = graph.node("DequantizeLinear", [held, one], f"{name}.whole", since=since)
        return graph.on_constant("Mul", whole, numpy32(op.per_weight(scale)), None, f"{name}.value")

    def _held(self, op: Quantize) -> int:
        """Bits of what holds the codes of activations."""
        beside = all(isinstance(reader, Product) for reader in self.readers[op.name])
        short = beside and not any(isinstance(source, MOVING) for source in self.sources(op))
        return self._container(Width.of(op.grid.low, op.grid.high).bits if short else 8)

    def _container(self, bits: int) -> int:
        """Bits of what holds codes of a width; beyond 8, of what nothing holds."""
        return next((held for held in OPSETS if held >= max(bits, self._least)), 16)


def _kind(bits: int, signed: bool) -> Any:
    """The numpy type of whole numbers of 2, 4 or 8 bits."""
    name = f"{'' if signed else 'u'}int{bits}"
    if bits == 8:
        return name
    import ml_dtypes  # comes with onnx

    return getattr(ml_dtypes, name)


def add_qdq(request: Request, graph: OnnxGraph) -> None:
    """Add a program. Raises ValueError for an unknown container, or pixels."""
    request.refuse("qdq", "prepare")
    container = request.container or "bits"
    if container not in CONTAINERS:
        raise ValueError(f"container={container!r}: expected {' or '.join(map(repr, CONTAINERS))}")
    graph.notes |= {
        "container": container,
        "mid-rise": "activations: half a step subtracted before and added after; weights: 2 code + 1 at half the step "
        "where the container has a bit to spare, else half a step added after",
        "ties": "to even, as QuantizeLinear has them",
        "batch": "any",
    }
    _Qdq(request.program, graph, 8 if container == "int8" else 0).build("batch")


FORMS.add("qdq", add_qdq)
