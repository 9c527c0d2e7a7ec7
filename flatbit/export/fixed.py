"""From a ``Program`` to its integer form: streams in fixed point, real scales as multipliers and shifts.

A stream is held in 32 bits as ``n 2^-f``. Its f follows from the bound that the grids give (``bounds.py``), so that
nothing overflows whatever the input, and no calibration is asked; streams that are added share theirs. A real scale r
is ``m 2^-s`` with ``|m| < 2^31``.

Deliberate difference from FAQ: its batch norm is 8-bit in training only up to the division
by the deviation, which is folded into a 31-bit multiplier here in place of being rounded a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from . import integer
from .bounds import Bound, accumulator_bound, bounds
from .integer import IntegerOperation
from .program import (
    INPUT,
    MOVING,
    Affine,
    AveragePool,
    Clamp,
    Coding,
    Concat,
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

MEND = "quantize it with fb.policy(..., first_last_bits=8, image_bits=8), which leaves no operand in float"
STREAM_BITS = 32
MULTIPLIER_BITS = 31
MOST_SHIFT = 30
SAME_SCALE = (Sum, Concat, Clamp, AveragePool, Resize, *MOVING)
"""Operations whose result has the scale of what they read."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerProgram:
    """What the integer executor runs.

    Attributes:
        operations: in order; the last gives the output, a stream.
        fraction_bits: f of each stream, by name: the value is ``n 2^-f``.
        codings: of each coded result, by name.
        errors: of each stream, the most by which multipliers and shifts move it from the exact value of the same
            codes; the model's own float32 error (``bounds``) comes on top where the two are compared.
        program: where it comes from.
    """

    operations: tuple[IntegerOperation, ...]
    fraction_bits: dict[str, int]
    codings: dict[str, Coding]
    errors: dict[str, float]
    program: Program

    @property
    def output(self) -> str:
        """Name of the last result."""
        return self.operations[-1].name

    @property
    def accumulator_bits(self) -> dict[str, int]:
        """Bits that each product's accumulator needs, by layer."""
        found: dict[str, int] = {}
        for op in self.operations:
            if isinstance(op, integer.Accumulate):
                found[op.layer] = max(found.get(op.layer, 0), op.accumulator_bits)
        return found


def fixed_point(program: Program) -> IntegerProgram:
    """The integer form of a program.

    Raises ValueError for a layer with an operand in float, one whose accumulator does not fit 32 bits, or codes of no
    integer offset where a layer cannot take them.
    """
    for op in program:
        if isinstance(op, FloatProduct):
            raise ValueError(f"layer {op.layer!r}: its {op.operand} is float, and integer forms take codes: {MEND}")
        if INPUT in op.inputs and not isinstance(op, Quantize):
            raise ValueError(
                f"layer {op.layer!r}: it reads the input in float, and integer forms take codes: quantize the input "
                "first, by the input of a quantized layer"
            )
    program = _with_streams(program)
    made = _Fixed(program, bounds(program))
    for op in program:
        made.take(op)
    return IntegerProgram(
        operations=tuple(made.operations),
        fraction_bits=made.fractions,
        codings=made.codings,
        errors=made.errors,
        program=program,
    )


def _with_streams(program: Program) -> Program:
    """The program with codes turned to a stream before what computes with streams, and before other quantizers."""
    coded: set[str] = set()
    operations: list[Operation] = []
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for op in program:
        if isinstance(op, Sum | Concat | Clamp | AveragePool | Resize | Quantize):
            names = list(op.inputs)
            for i, name in enumerate(names):
                if name in coded:
                    names[i] = f"{op.name}.stream{i}"
                    operations.append(Affine(name=names[i], inputs=(name,), layer=op.layer, scale=one, shift=zero))
            op = replace(op, inputs=tuple(names))
        operations.append(op)
        if isinstance(op, Quantize) or (isinstance(op, MOVING) and op.inputs[0] in coded):
            coded.add(op.name)
    return replace(program, operations=tuple(operations))


def shared_fractions(program: Program, bound: dict[str, Bound]) -> dict[str, int]:
    """f of each stream: 31 bits hold the largest of all streams that share it."""
    group: dict[str, str] = {}

    def find(name: str) -> str:
        while group.setdefault(name, name) != name:
            name = group[name]
        return name

    for op in program:
        if isinstance(op, SAME_SCALE):
            for name in op.inputs:
                group[find(name)] = find(op.name)
    largest: dict[str, float] = {}
    for op in program:
        if not isinstance(op, Quantize | Product):
            size = float(bound[op.name].size.max())
            largest[find(op.name)] = max(largest.get(find(op.name), 0.0), size)
    room = STREAM_BITS - 2  # the sign, and one for what rounding adds
    exponent = {name: math.frexp(size or 1.0)[1] for name, size in largest.items()}
    return {op.name: room - exponent[find(op.name)] for op in program if find(op.name) in exponent}


class _Fixed:
    """The integer operations so far."""

    def __init__(self, program: Program, bound: dict[str, Bound]) -> None:
        self.operations: list[IntegerOperation] = []
        self.codings: dict[str, Coding] = {}
        self.errors: dict[str, float] = {}
        self.products: dict[str, Product] = {}
        self.bound = bound
        self.fractions = shared_fractions(program, bound)

    def take(self, op: Operation) -> None:
        """Add the integer form of one operation."""
        if isinstance(op, Quantize):
            self._quantize(op)
        elif isinstance(op, Product):
            self._product(op)
        elif isinstance(op, Affine):
            self._affine(op)
        else:
            self._keep(op)

    def _quantize(self, op: Quantize) -> None:
        self.codings[op.name] = op.coding
        parts = {"name": op.name, "inputs": op.inputs, "layer": op.layer}
        if op.inputs == (INPUT,):
            self.operations.append(integer.Encode(**parts, grid=op.grid, ties=op.ties, doubled=op.doubled))
            return
        grid, f = op.grid, self.fractions[op.inputs[0]]
        ratio = math.ldexp(1.0, -f) / float(grid.step)
        room = 60 - max(0, math.frexp(float(grid.offset))[1])  # for the addend, in 64 bits
        shift = min(MULTIPLIER_BITS - math.frexp(ratio)[1], room)
        addend = round(math.ldexp(0.5 - float(grid.offset), shift))
        self.operations.append(
            integer.Round(
                **parts, multiplier=round(math.ldexp(ratio, shift)), addend=addend, shift=shift, low=grid.low,
                high=grid.high, ties=op.ties, doubled=op.doubled,
            )
        )  # fmt: skip

    def _product(self, op: Product) -> None:
        read = self.codings[op.inputs[0]]
        most = accumulator_bound(op, read.low, read.high)
        bits = most.bit_length() + 1
        if bits > STREAM_BITS:
            raise ValueError(
                f"layer {op.layer!r}: its sums can reach {most}, which takes {bits} bits: an accumulator has "
                f"{STREAM_BITS}; give the layer fewer bits"
            )
        self.products[op.name] = op
        parts = {"inputs": op.inputs, "layer": op.layer, "product": op}
        self.operations.append(integer.Accumulate(name=op.name, accumulator_bits=bits, read=read, **parts))
        if read.offset:
            self.operations.append(integer.WindowSum(name=f"{op.name}.window", **parts))

    def _affine(self, op: Affine) -> None:
        """Rescale what it reads, codes, accumulators or a stream, to the stream's scale."""
        source, f = op.inputs[0], self.fractions[op.name]
        product = self.products.get(source)
        if product is not None:
            read = self.codings[product.inputs[0]]
            unit, offset = op.scale * product.scale * read.step, read.offset
            size = float(accumulator_bound(product, read.low, read.high))
        elif source in self.codings:
            coding = self.codings[source]
            unit, offset = op.scale * coding.step, 0.0
            op = replace(op, shift=op.shift + unit * coding.offset)
            size = float(max(abs(coding.low), abs(coding.high)))
        else:
            unit, offset, size = op.scale * math.ldexp(1.0, -self.fractions[source]), 0.0, 2.0**STREAM_BITS / 2
        ratio = unit * 2.0**f
        shift = max(0, min(MULTIPLIER_BITS - math.frexp(float(ratio.abs().max()))[1], MOST_SHIFT))
        multiplier = (ratio * 2.0**shift).round()
        addend = (op.shift * 2.0 ** (f + shift)).round() + (2.0 ** (shift - 1) if shift else 0)
        second = (ratio * offset * 2.0**shift).round() if offset else None
        off = (multiplier - ratio * 2.0**shift).abs().max() * size
        if second is not None:
            assert product is not None
            window = product.per_channel(product.weight.abs()).double()
            off = off + ((second - ratio * offset * 2.0**shift).abs() * window).max()
        self.operations.append(
            integer.Rescale(
                name=op.name, inputs=(source,) if second is None else (source, f"{source}.window"), layer=op.layer,
                multiplier=multiplier.long(), addend=addend.long(), shift=shift,
                second=None if second is None else second.long(),
            )
        )  # fmt: skip
        own = (math.ldexp(float(off), -shift) + 1.0) * math.ldexp(1.0, -f)
        self.errors[op.name] = own + self.errors.get(source, 0.0) * float(op.scale.abs().max())

    def _keep(self, op: Operation) -> None:
        """What acts on whole numbers as on real ones."""
        parts = {"name": op.name, "inputs": op.inputs, "layer": op.layer}
        f = self.fractions.get(op.name)
        own = sum(self.errors.get(name, 0.0) for name in op.inputs)
        if isinstance(op, Clamp):
            assert f is not None
            size = float(self.bound[op.inputs[0]].size.max())  # an end beyond it limits nothing
            low = None if op.low < -size else round(math.ldexp(op.low, f))
            high = None if op.high > size else round(math.ldexp(op.high, f))
            made: IntegerOperation = integer.Limit(**parts, low=low, high=high)
        elif isinstance(op, AveragePool):
            assert f is not None
            made, own = integer.Mean(**parts, pool=op), own + math.ldexp(1.0, -f)
        elif isinstance(op, Resize):
            assert f is not None
            made, own = integer.Enlarge(**parts, resize=op), own + math.ldexp(1.0, -f)
        else:
            made = _as_it_is(op, parts)
        if op.inputs[0] in self.codings:
            self.codings[op.name] = _moved(self.codings[op.inputs[0]], op)
        self.operations.append(made)
        if f is not None:
            self.errors[op.name] = own


def _as_it_is(op: Operation, parts: dict) -> IntegerOperation:
    if isinstance(op, Sum):
        return integer.Add(**parts)
    if isinstance(op, Concat):
        return integer.Join(**parts)
    if isinstance(op, MaxPool):
        return integer.Largest(**parts, pool=op)
    if isinstance(op, Slice):
        return integer.Cut(**parts, index=op.index)
    if isinstance(op, Pad):
        return integer.ZeroPad(**parts, widths=op.widths)
    return integer.Flat(**parts)


def _moved(coding: Coding, op: Operation) -> Coding:
    """The coding of codes that were moved about: zeros come in where they are padded."""
    if not isinstance(op, Pad):
        return coding
    if coding.offset:
        raise ValueError(f"layer {op.layer!r}: zero is no code of what is padded (offset {coding.offset:g})")
    return replace(coding, low=min(coding.low, 0), high=max(coding.high, 0))
