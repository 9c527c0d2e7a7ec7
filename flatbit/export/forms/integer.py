"""Integers only between the input and the logits: the integer executor's own steps as ONNX operations.

Bit for bit what ``IntegerNetwork`` computes, in ONNX Runtime. The input is uint8 pixels, through a table of codes
(``prepare=``), or float32, which the first quantizer rounds as the model does. Two results: ``integers``, int32, the
logits in fixed point, and ``logits``, float32, the same times a power of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import integer
from ..executor import with_pixels
from ..fixed import IntegerProgram, fixed_point
from ..onnx_geometry import pool_attributes, pool_padding
from ..onnx_graph import OnnxGraph
from ..onnx_whole import BIAS, WHOLE, HeldCodes, WholeGraph
from ..program import INPUT
from ..shapes import shapes
from . import FORMS, Request


class IntegerGraph:
    """The graph of an integer program, operation by operation.

    Attributes:
        values: name in the graph of each result.
        held: of each coded result, how.
    """

    def __init__(self, program: IntegerProgram, graph: OnnxGraph) -> None:
        self.program, self.graph, self.to = program, graph, WholeGraph(graph)
        self.shapes = shapes(program.program)
        self.values = {INPUT: INPUT}
        self.held: dict[str, HeldCodes] = {}

    def build(self) -> None:
        """Add everything."""
        graph, types = self.graph, self.graph.types
        encode = next(op for op in self.program.operations if isinstance(op, integer.Encode))
        kind = types["FLOAT" if encode.pixels is None else "UINT8"]
        graph.input = (INPUT, kind, ["batch", *self.program.program.input_shape])
        for op in self.program.operations:
            if op.name in self.program.codings:
                self.held[op.name] = HeldCodes.of(self.program.codings[op.name], op.layer)
            self.values[op.name] = ADDED[type(op)](self, op, *(self.values[name] for name in op.inputs))
        output = self.program.output
        shape = ["batch", *self.shapes[output][1:]]
        self.to.cast(self.values[output], "INT32", "integers")
        scale = np.float32(2.0 ** -self.program.fraction_bits[output])
        graph.on_constant("Mul", self.to.cast("integers", "FLOAT", "float"), scale, None, "logits")
        graph.outputs += [("logits", types["FLOAT"], shape), ("integers", types["INT32"], shape)]

    def stream(self, name: str, x: str, op: integer.IntegerOperation) -> str:
        """What an operation reads as int64: a stream as it is, codes as the numbers that they hold."""
        return self.to.whole(x, self.held[name], f"{op.name}.read") if name in self.held else x

    def rank(self, name: str) -> int:
        """Axes of a result, the batch among them."""
        return len(self.shapes[name])


def _encode(to: IntegerGraph, op: integer.Encode, x: str) -> str:
    held, graph, name = to.held[op.name], to.graph, op.name
    if op.pixels is None:
        codes = _nearest(graph, op, x)
        scale, shift = (2, 1) if op.doubled and not held.halved else (1, 0)
        if scale != 1:
            codes = graph.on_constant("Mul", codes, np.float32(scale), None, f"{name}.twice")
        codes = graph.on_constant("Add", codes, np.float32(shift + held.zero), None, f"{name}.held")
        return to.to.cast(codes, "UINT8", name)
    codes = (op.pixels - 1) // 2 if held.halved else op.pixels
    table = graph.constant(f"{name}.pixels", (codes + held.zero).flatten().numpy(), np.uint8)
    index = to.to.cast(x, "INT64", f"{name}.index")
    if len(op.pixels) > 1:
        rows = to.to.along(256 * torch.arange(len(op.pixels)), to.rank(INPUT))
        index = to.to.plus(index, rows, f"{name}.row")
    return graph.node("Gather", [table, index], name)


def _nearest(graph: OnnxGraph, op: integer.Encode, x: str) -> str:
    """``quant.rounding.nearest_code``, operation by operation, in float32."""
    grid, name = op.grid, f"{op.name}.code"
    low, high = grid.low, grid.high

    def on(kind: str, x: str, value: float, part: str) -> str:
        return graph.on_constant(kind, x, np.float32(value), None, f"{name}.{part}")

    step = float(grid.step)
    if op.ties == "away":
        x = on("Max", x, step * (low + grid.offset), "limited")  # ties away from zero know no low
        moved = on("Add", on("Div", graph.node("Abs", [x], f"{name}.abs"), step, "steps"), 0.5 - grid.offset, "moved")
        size = on("Min", graph.node("Floor", [moved], f"{name}.floor"), high, "size")
        below = on("Sub", graph.node("Neg", [size], f"{name}.neg"), 2 * grid.offset, "below")
        return graph.node("Where", [on("Less", x, 0, "negative"), below, size], name)
    origin = low if op.ties == "even_from_low" else 0
    t = on("Sub", on("Div", x, step, "steps"), grid.offset + origin, "moved")
    ends = [graph.constant(f"{name}.end", np.float32(end - origin)) for end in (low, high)]
    rounded = graph.node("Round", [graph.node("Clip", [t, *ends], f"{name}.inside")], f"{name}.round")
    return on("Add", rounded, origin, "back") if origin else rounded


def _accumulate(to: IntegerGraph, op: integer.Accumulate, x: str) -> str:
    held = to.held[op.inputs[0]]
    if not held.halved:
        return to.to.product(op.product, x, held.zero, op.name)
    half = to.to.product(op.product, x, held.zero, f"{op.name}.half")
    ones = _window_sum(
        to, integer.WindowSum(name=f"{op.name}.ones", inputs=op.inputs, layer=op.layer, product=op.product), x
    )
    return to.graph.node("Add", [to.to.times(half, 2, f"{op.name}.twice"), ones], op.name)


def _window_sum(to: IntegerGraph, op: integer.WindowSum, _x: str) -> str:
    ones = to.to.ones(to.shapes[op.inputs[0]], f"{op.name}.of")
    return to.to.product(op.product, ones, 0, op.name)


def _rescale(to: IntegerGraph, op: integer.Rescale, x: str, *window: str) -> str:
    name, rank = op.name, to.rank(op.name)
    n = to.to.times(to.stream(op.inputs[0], x, op), to.to.along(op.multiplier, rank), f"{name}.product")
    if op.second is not None:
        other = to.to.times(window[0], to.to.along(op.second, rank), f"{name}.second")
        n = to.graph.node("Add", [n, other], f"{name}.both")
    if not op.shift:
        return to.to.plus(n, to.to.along(op.addend, rank), name)
    biased = to.to.plus(n, to.to.along(op.addend + BIAS, rank), f"{name}.biased")
    return to.to.plus(to.to.floor_shifted(biased, op.shift, name), -(BIAS >> op.shift), name)


def _round(to: IntegerGraph, op: integer.Round, x: str) -> str:
    whole, graph, name, base = to.to, to.graph, op.name, BIAS >> op.shift
    n = whole.plus(whole.times(x, op.multiplier, f"{name}.product"), op.addend + BIAS, f"{name}.biased")
    q = whole.floor_shifted(n, op.shift, name)
    tie = graph.node("Equal", [n, whole.times(q, 1 << op.shift, f"{name}.back")], f"{name}.tie")
    if op.ties == "away":
        down = graph.on_constant("Less", x, 0, WHOLE, f"{name}.negative")
        down = graph.node("And", [tie, down], f"{name}.down")
        less = whole.cast(down, "INT64", f"{name}.less")
    else:  # base is even
        from_low = op.low % 2 if op.ties == "even_from_low" else 0
        counted = whole.plus(q, from_low, f"{name}.from_low") if from_low else q
        odd = graph.on_constant("Mod", counted, 2, WHOLE, f"{name}.odd")
        less = graph.node("Mul", [whole.cast(tie, "INT64", f"{name}.tied"), odd], f"{name}.less")
    q = graph.node("Sub", [q, less], f"{name}.rounded")
    ends = [graph.constant(f"{name}.end", base + end, WHOLE) for end in (op.low, op.high)]
    q = graph.node("Clip", [q, *ends], f"{name}.inside")
    held = to.held[name]
    if op.doubled and not held.halved:
        q, base = whole.plus(whole.times(q, 2, f"{name}.twice"), 1, f"{name}.odd_code"), 2 * base
    return whole.cast(whole.plus(q, held.zero - base, f"{name}.held"), "UINT8", name)


def _add(to: IntegerGraph, op: integer.Add, *x: str) -> str:
    return to.graph.node("Add", x, op.name)


def _limit(to: IntegerGraph, op: integer.Limit, x: str) -> str:
    ends = {"low": op.low, "high": op.high}
    parts = ["" if end is None else to.graph.constant(f"{op.name}.{key}", end, WHOLE) for key, end in ends.items()]
    return to.graph.node("Clip", [x, *parts], op.name)


def _join(to: IntegerGraph, op: integer.Join, *x: str) -> str:
    return to.graph.node("Concat", x, op.name, axis=1)


def _enlarge(to: IntegerGraph, op: integer.Enlarge, x: str) -> str:
    resize, name = op.resize, op.name
    rows = to.graph.constant(f"{name}.rows", resize.rows.numpy(), WHOLE)
    tall = to.graph.node("MatMul", [rows, x], f"{name}.tall")
    total = to.graph.on_constant("MatMul", tall, resize.columns.T.numpy(), WHOLE, f"{name}.sum")
    return _divided(to, total, resize.denominator, name)


def _mean(to: IntegerGraph, op: integer.Mean, x: str) -> str:
    name, size, out = op.name, to.shapes[op.inputs[0]][2:], to.shapes[op.name][2:]
    terms = int(np.prod(op.pool.kernel or size))
    if terms == np.prod(size):
        axes = to.graph.constant(f"{name}.axes", list(range(2, 2 + len(size))), WHOLE)
        total = to.graph.node("ReduceSum", [x, axes], f"{name}.sum", keepdims=1)
    else:
        total, *others = to.to.windows(x, name, op.pool, out)
        for i, other in enumerate(others):
            total = to.graph.node("Add", [total, other], f"{name}.sum.{i}")
    return _divided(to, total, terms, name)


def _divided(to: IntegerGraph, total: str, terms: int, name: str) -> str:
    """A sum divided, to the nearest whole number."""
    base = 1 << 32  # Div rounds towards zero: what it divides is made positive
    positive = to.to.plus(total, terms // 2 + terms * base, f"{name}.positive")
    return to.to.plus(to.graph.on_constant("Div", positive, terms, WHOLE, f"{name}.mean"), -base, name)


def _largest(to: IntegerGraph, op: integer.Largest, x: str) -> str:
    size, out, pool = to.shapes[op.inputs[0]][2:], to.shapes[op.name][2:], op.pool
    if op.name in to.held:
        return to.graph.node("MaxPool", [x], op.name, **pool_attributes(pool, size, out))
    least = np.asarray(np.iinfo(np.int32).min, WHOLE)  # no stream is below
    x = to.graph.pad(x, f"{op.name}.padded", pool_padding(pool, size, out), len(size) + 2, least)
    return to.graph.node("Max", to.to.windows(x, op.name, pool, out), op.name)


def _cut(to: IntegerGraph, op: integer.Cut, x: str) -> str:
    return to.graph.cut(x, op.name, op.index)


def _pad(to: IntegerGraph, op: integer.ZeroPad, x: str) -> str:
    held = to.held.get(op.name)
    if held is not None and held.halved:
        raise ValueError(
            f"layer {op.layer!r}: codes of 8 bits about a half have no zero to pad with in the form 'integer': give "
            "what it reads 7 bits, or take the form 'qdq'"
        )
    fill = np.asarray(0, WHOLE) if held is None else np.asarray(held.zero, np.uint8)
    return to.graph.pad(x, op.name, op.widths, to.rank(op.name), fill)


def _flat(to: IntegerGraph, op: integer.Flat, x: str) -> str:
    return to.graph.node("Flatten", [x], op.name)


ADDED: dict[type[integer.IntegerOperation], Callable[..., Any]] = {
    integer.Encode: _encode,
    integer.Accumulate: _accumulate,
    integer.WindowSum: _window_sum,
    integer.Rescale: _rescale,
    integer.Round: _round,
    integer.Add: _add,
    integer.Join: _join,
    integer.Enlarge: _enlarge,
    integer.Limit: _limit,
    integer.Mean: _mean,
    integer.Largest: _largest,
    integer.Cut: _cut,
    integer.ZeroPad: _pad,
    integer.Flat: _flat,
}


def add_integer(request: Request, graph: OnnxGraph) -> None:
    """Add a program. Raises ValueError for operands in float, sums beyond 32 bits, what 8 bits cannot hold."""
    request.refuse("integer", "container")
    program = fixed_point(request.program)
    if request.prepare is not None:
        program = with_pixels(program, request.prepare)
    graph.notes |= {
        "mid-rise": "2 code + 1 at half the step, in 8 bits; of 8 bits, codes, and the window's sum of weights added",
        "ties": "as each quantizer has them",
        "batch": "any",
        "fraction_bits": str(program.fraction_bits[program.output]),
    }
    IntegerGraph(program, graph).build()


FORMS.add("integer", add_integer)
