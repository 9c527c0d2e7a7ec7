"""QONNX: the network in float with Quant and BipolarQuant nodes, as FINN and hls4ml read it, of any width, 1 bit too.

Their back ends expect zero points of 0. A mid-rise grid is therefore held as ``2 code + 1`` at half the step, one bit
wider: weights by one Quant; activations by a Quant of the codes, between half a step subtracted and half a step added,
and a second Quant that says what integers came of it. One bit of it is a BipolarQuant, whose zero is positive: where
a tie goes to the lower level (``even_from_low``), it stands between two signs.

Weights are floats in the file, on their grid already. The batch is fixed, as qonnx's executor asks. A tie goes to
even, as in ``qdq``.
"""

from __future__ import annotations

import numpy as np

from ..onnx_float import FloatForm, Held, Width, numpy32
from ..onnx_graph import OnnxGraph
from ..program import Product, Quantize
from . import FORMS, Request

DOMAIN = "qonnx.custom_op.general"


class _Qonnx(FloatForm):
    def quantized(self, op: Quantize, x: str) -> str:
        held, name = Held.of(op), op.name
        half = held.step / 2
        if op.doubled and op.grid.num_levels == 2:
            return self._signs(op, x, half)
        shift = np.float32(held.shift * held.step)
        width = Width.of(held.low, held.high)
        if held.shift:
            x = self.graph.on_constant("Sub", x, shift, None, f"{name}.shifted")
        if not width.exact:
            x = self.clipped(x, f"{name}.clipped", held.step * held.low, held.step * held.high)
        y = self._quant(x, name, held.step, width)
        if held.shift:
            y = self.graph.on_constant("Add", y, shift, None, f"{name}.moved")
        return self._quant(y, f"{name}.doubled", half, Width.of(op.coding.low, op.coding.high)) if op.doubled else y

    def _signs(self, op: Quantize, x: str, half: float) -> str:
        lower = op.ties == "even_from_low"
        if lower:
            x = self.graph.node("Neg", [x], f"{op.name}.negated")
        y = self._bipolar(x, op.name, half)
        return self.graph.node("Neg", [y], f"{op.name}.back") if lower else y

    def coded_weight(self, op: Product) -> str:
        name, scale = f"{op.name}.weight", op.per_weight(op.scale).float()
        values = self.graph.constant(name, (op.weight.float() * scale).numpy())
        if op.doubled and op.bits == 1:
            return self._bipolar(values, f"{name}.quantized", numpy32(scale))
        top = 2 ** (op.bits + op.doubled - 1)
        low, high = int(op.weight.min()), int(op.weight.max())
        signed = high < top
        width = Width(signed=signed, bits=op.bits + op.doubled, narrow=signed and low > -top, exact=True)
        return self._quant(values, f"{name}.quantized", numpy32(scale), width)

    def _quant(self, x: str, name: str, scale: object, width: Width) -> str:
        parts = {"scale": scale, "zero": 0, "bits": width.bits}
        constants = [self.graph.constant(f"{name}.{key}", value, np.float32) for key, value in parts.items()]
        return self.graph.node(
            "Quant", [x, *constants], name, domain=DOMAIN, signed=int(width.signed), narrow=int(width.narrow),
            rounding_mode="ROUND",
        )  # fmt: skip

    def _bipolar(self, x: str, name: str, scale: object) -> str:
        constant = self.graph.constant(f"{name}.scale", scale, np.float32)
        return self.graph.node("BipolarQuant", [x, constant], name, domain=DOMAIN)


def add_qonnx(request: Request, graph: OnnxGraph) -> None:
    """Add a program. Raises ValueError for a container, or pixels."""
    request.refuse("qonnx", "container", "prepare")
    graph.domains[DOMAIN] = 1
    graph.notes |= {
        "mid-rise": "2 code + 1 at half the step, one bit wider, zero point 0; of one bit, BipolarQuant",
        "ties": "to even, as Quant has them",
        "batch": str(request.batch),
    }
    _Qonnx(request.program, graph).build(request.batch)


FORMS.add("qonnx", add_qonnx)
